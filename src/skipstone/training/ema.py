"""The averaged weights: the ones that are validated, sampled and stored."""

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Exponential moving average of the weights after every step, with warm-up.

    decay: its final value; the k-th update's is min(decay, (1 + k) / (10 + k)), and the first copies, so that the
    random first weights are forgotten at once. Validation sees the averaged weights; callbacks that read the weights
    at validation's end must be listed before this one. Buffers are left alone: nothing in our networks gathers
    statistics there.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)
        self.decay = decay
        self._pairs: tuple[list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's own would wait for the device, which counts the updates, and look every parameter up again."""
        k = trainer.global_step
        if k == self._latest_update_step:
            return  # gradients accumulate
        if self._pairs is None:
            self._pairs = list(self._average_model.module.parameters()), list(module.parameters())
        new = 1.0 if self._latest_update_step == 0 else 1 - min(self.decay, (1 + k) / (10 + k))
        torch._foreach_lerp_(*self._pairs, new)
        self._latest_update_step = k

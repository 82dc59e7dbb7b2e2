"""The averaged weights: the ones that are validated, sampled and stored."""

from collections.abc import Sequence
from typing import Any

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
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.decay = decay

    @torch.no_grad()
    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], _: Any) -> None:
        # counts steps from what this callback stores itself, for the count that is passed lives on the device
        k = self._latest_update_step + 1
        torch._foreach_lerp_(list(averaged), list(current), 1 - min(self.decay, (1 + k) / (10 + k)))

"""The callback that speaks while nothing is to be seen yet: from the start of a training to its first step's end."""

from contextlib import ExitStack
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from skipstone.network import compiling


class FirstStep(Callback):
    """Says that the network is compiled, if these resolved settings do so, and how long that took."""

    def __init__(self, trainer_config: dict[str, Any]) -> None:
        self.settings, self._waiting = trainer_config, ExitStack()

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            self._waiting.enter_context(compiling.announced("the network, to train it", self.settings))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._waiting.close()  # at every later step there is nothing left in it

"""The callbacks that speak during a training: until its first step is done, and then of its steps."""

from contextlib import ExitStack
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from skipstone import progress
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


class Steps(Callback):
    """Shows the steps of a training and its losses, which it looks at where they are logged: that waits for the device.

    total: the last step
    """

    def __init__(self, total: int) -> None:
        self._total, self._open, self._show = total, ExitStack(), progress.nothing
        self._losses = ""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.is_global_zero:
            self._show = self._open.enter_context(progress.shown("training", "steps", lambda: self._losses))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and trainer.global_step % trainer.log_every_n_steps == 0:
            logged = trainer.logged_metrics
            there = [name for name in ("train/loss", "val/loss") if name in logged]
            self._losses = " ".join(f"{name} {float(logged[name]):.3f}" for name in there)
        self._show(trainer.global_step, self._total)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._open.close()
        self._show = progress.nothing  # which pickles on the way back from a device's process

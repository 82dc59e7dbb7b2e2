"""The validation callback: samples the averaged network at a few (tau, eta) while it trains."""

import time
from collections.abc import Callable
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback
from torch import nn

from skipstone.evaluation.evaluate import Result
from skipstone.report import pictures
from skipstone.report.dashboard import log_results


class SamplingCallback(Callback):
    """At each validation, evaluates cells on the module's device; logs their metrics and grids, and saves the grids.

    place:   network → the form in which it is sampled (placement.sampler with everything else bound)
    sample:  that → results (evaluation.evaluate with everything else bound)
    folder:  where the grids go
    seconds: what all validations took so far, the held-out losses included

    Both callables must pickle, because further devices are processes of their own. List this callback before EMA,
    which puts the raw weights back at validation's end. It draws nothing from any generator that training uses, so the
    cells do not touch the weights.
    """

    def __init__(
        self, place: Callable[[nn.Module], nn.Module], sample: Callable[[nn.Module], list[Result]], folder: Path
    ) -> None:
        self.place, self.sample, self.folder = place, sample, folder
        self.seconds = 0.0

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.seconds -= time.perf_counter()

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.seconds += time.perf_counter()

    def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        with trainer.precision_plugin.forward_context():
            results = self.sample(self.place(module.net))
        for result in results:
            pictures.save_grid(result.samples, self.folder / f"step{trainer.global_step:06d}-{result.name}.png")
        log_results(trainer.loggers, results, trainer.global_step - 1)  # where Lightning logs the losses

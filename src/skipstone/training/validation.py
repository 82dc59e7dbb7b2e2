"""The validation callback: samples the averaged network at a few (tau, eta) while it trains."""

from collections.abc import Callable
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback
from torch import nn

from skipstone.evaluation import Result
from skipstone.report import pictures


class SamplingCallback(Callback):
    """At each validation, evaluates cells on the module's device; logs their metrics and grids, and saves the grids.

    sample: network → results (evaluation.evaluate with everything else bound).  folder: where the grids go.
    List it before EMA, which puts the raw weights back at validation's end. It draws nothing from any generator that
    training uses, so the cells do not touch the weights.
    """

    def __init__(self, sample: Callable[[nn.Module], list[Result]], folder: Path) -> None:
        self.sample, self.folder = sample, folder

    def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        with trainer.precision_plugin.forward_context():
            results = self.sample(module.net)
        for result in results:
            pictures.save_grid(result.samples, self.folder / f"step{trainer.global_step:06d}-{result.cell.name}.png")
        log_results(trainer.loggers, results, trainer.global_step - 1)  # where Lightning logs the losses


def log_results(loggers: list, results: list[Result], step: int | None = None) -> None:
    """Metrics of every cell under cell/<name>/<metric>, the floors that all share, and grids where a logger can."""
    metrics = {
        f"cell/{result.cell.name}/{name}": value
        for result in results
        for name, value in result.row.items()
        if name in ("nfe", "solver_rmse", "fd_random", "kid_random", "seconds") and value is not None
    }
    metrics |= {name: value for name, value in results[0].row.items() if name.endswith("_floor")}
    for logger in loggers:
        logger.log_metrics(metrics, step=step)
        if hasattr(logger, "log_image"):
            for result in results:
                caption = f"{result.cell.name} nfe={result.row['nfe']} fd_random={result.row['fd_random']:.3g}"
                grid = pictures.grid(result.samples)
                logger.log_image(f"samples/{result.cell.name}", [grid], step=step, caption=[caption])

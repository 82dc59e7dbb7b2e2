"""One training: builds Lightning's Trainer from the configuration and runs it to the last step."""

import csv
import logging
import pickle
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from skipstone import runs
from skipstone.data import ImageSet
from skipstone.process import ForwardProcess
from skipstone.training import hardware
from skipstone.training.data import ImageData, StepSampler
from skipstone.training.ema import EMA
from skipstone.training.module import DiffusionModule, Recipe

log = logging.getLogger(__name__)

_REFRESH = 10  # steps between looks at the loss, each of which waits for the device


def fit(
    net: nn.Module,
    process: ForwardProcess,
    images: ImageSet,
    recipe: Recipe,
    trainer_config: dict[str, Any],
    seed: int,
    folder: Path,
    logger: Logger | None = None,
    callbacks: tuple[Callback, ...] = (),
) -> nn.Module:
    """Train `net` and return it with the averaged weights of the last step.

    trainer_config: resolved (hardware.resolve).  folder: the model's, for last.ckpt and metrics.csv; a training that
    was cut off there is resumed.  logger: a tracker beside metrics.csv.  callbacks: see the averaged weights.
    """
    _quiet()
    resumed = runs.checkpoint(folder)
    past = _read(resumed) if resumed else None
    curve = _training_curve(folder, past)
    module = DiffusionModule(
        hardware.layout(net), process, recipe, seed, images.flip, compiled=trainer_config["compile"]
    )
    trainer = build_trainer(
        trainer_config,
        logger=[curve] if logger is None else [curve, logger],
        callbacks=[
            *callbacks,  # before EMA, which puts the raw weights back at validation's end
            EMA(recipe.ema_decay),
            LearningRateMonitor("step"),
            ModelCheckpoint(
                folder,
                save_top_k=0,
                save_last=True,
                every_n_train_steps=trainer_config["checkpoint_every_n_steps"],
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            ),
        ],
    )
    # refuses a batch that the devices cannot share, before any is started
    StepSampler(len(images.train), recipe.batch_size, trainer.max_steps, seed, ranks=trainer.world_size)
    if resumed:
        log.info("resuming the training in %s", folder)
        if past["global_step"] >= trainer.max_steps:
            # Nothing is left to train. Lightning would skip its loop, and with it the hook that hands over the
            # averaged weights; they are what the checkpoint's state_dict holds.
            module.load_state_dict(past["state_dict"])
            return module.net
    try:
        trainer.fit(module, ImageData(images, recipe.batch_size, seed), ckpt_path=resumed, weights_only=True)
    except SystemExit as stopped:  # Lightning's answer to SIGINT and SIGTERM; the latter's would count as success
        raise KeyboardInterrupt from stopped
    if not all(bool(parameter.isfinite().all()) for parameter in module.net.parameters()):
        raise ValueError(
            f"the training diverged, so its model is not stored: lower training.learning_rate={recipe.learning_rate} "
            f"and remove {folder}."
        )
    return module.net


def _quiet() -> None:
    """Leave warnings to Hydra's log: Lightning would print them a second time, with tips and commonplaces."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
    for message in ("The '.*_dataloader' does not have many workers", "`isinstance.treespec, LeafSpec.`"):
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", "Experiment logs directory")  # metrics.csv is ours to continue
    warnings.filterwarnings(
        "ignore", "You're resuming from a checkpoint that ended before the epoch"
    )  # StepSampler can


class _Bar(RichProgressBar):
    """Loss and speed, without the number that Lightning gives to a logger's folder."""

    def get_metrics(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, module).items() if name != "v_num"}


def build_trainer(
    trainer_config: dict[str, Any], logger: list[Logger] | bool, callbacks: list[Callback]
) -> lightning.Trainer:
    """Lightning's Trainer from a resolved trainer group; training is one epoch of max_steps batches."""
    ours = ("compile", "threads", "checkpoint_every_n_steps")
    if trainer_config["enable_progress_bar"]:
        callbacks = [*callbacks, _Bar(refresh_rate=_REFRESH)]
    try:
        return lightning.Trainer(
            **{name: value for name, value in trainer_config.items() if name not in ours},
            max_epochs=1,
            logger=logger,
            callbacks=callbacks,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # StepSampler shares the batch itself
        )
    except (TypeError, MisconfigurationException) as error:
        raise ValueError(f"the trainer settings do not work: {error}") from error


def _read(checkpoint: Path) -> dict[str, Any]:
    try:
        return torch.load(checkpoint, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{checkpoint} cannot be read: remove it to train from the start.") from error


def _training_curve(folder: Path, past: dict[str, Any] | None) -> CSVLogger:
    """The model's own metrics.csv. Lightning's logger starts a file anew, so a resumed one is given its past back."""
    path, rows = folder / "metrics.csv", []
    if past and path.is_file():
        with path.open(newline="") as file:
            rows = [{name: value for name, value in row.items() if value != ""} for row in csv.DictReader(file)]
        rows = [row for row in rows if int(row["step"]) < past["global_step"]]
    path.unlink(missing_ok=True)
    logger = CSVLogger(folder, name="", version="")
    logger.experiment.metrics.extend(rows)
    logger.save()
    return logger

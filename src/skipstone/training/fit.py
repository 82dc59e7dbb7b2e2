"""One training: builds Lightning's Trainer from the configuration and runs it to the last step."""

import logging
import signal
import traceback
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from skipstone.data import ImageSet
from skipstone.network import placement
from skipstone.process import ForwardProcess
from skipstone.store import claims
from skipstone.training import ranks
from skipstone.training.batches import ImageData, StepSampler
from skipstone.training.checkpoints import resume
from skipstone.training.checkpoints.curve import Curve
from skipstone.training.checkpoints.resume import Checkpoint
from skipstone.training.checkpoints.save import DurableIO, Survival, requeue_signals
from skipstone.training.ema import EMA
from skipstone.training.module import DiffusionModule, Recipe
from skipstone.training.progress import FirstStep, Steps

log = logging.getLogger(__name__)


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
    found: Checkpoint | None = None,
) -> nn.Module:
    """Train `net` and return it with the averaged weights of the last step.

    trainer_config: resolved (placement.resolve)
    folder:         the model's, where last.ckpt and metrics.csv lie
    logger:         a tracker beside metrics.csv
    callbacks:      see the averaged weights
    found:          the checkpoint to go on from, as resume.latest found it there; None begins from scratch
    """
    ranks.quiet()
    accumulated = trainer_config["accumulate_grad_batches"]
    resumed, step, past = found or (None, 0, [])
    curve = Curve(folder, past)
    module = DiffusionModule(
        placement.layout(net),
        process,
        recipe,
        seed,
        images.flip,
        compiled=trainer_config["compile"],
        kernels=placement.has_kernels(net, trainer_config),
    )
    every, steps = trainer_config["checkpoint_every_n_steps"], trainer_config["max_steps"]
    survival = Survival(folder, claims.key_of(folder), curve, every, steps)
    trainer = build_trainer(
        trainer_config,
        logger=[curve] if logger is None else [curve, logger],
        callbacks=[
            survival,
            *callbacks,  # before EMA, which puts the raw weights back at validation's end
            EMA(recipe.ema_decay),
            LearningRateMonitor("step"),
            FirstStep(trainer_config),
        ],
    )
    batches = steps * accumulated
    # refuses a batch that the devices cannot share, before any is started
    StepSampler(len(images.train), recipe.batch_size, batches, seed, ranks=trainer.world_size)
    labelled = bool(getattr(net, "classes", 0))
    data = ImageData(images, recipe.batch_size, seed, batches, first=step * accumulated, labelled=labelled)
    if resumed:
        log.info("resuming the training in %s after step %d", folder, step)
    _run(trainer, module, data, resumed, survival)
    return module.net


def _run(
    trainer: lightning.Trainer, module: DiffusionModule, data: ImageData, resumed: Path | None, survival: Survival
) -> None:
    """Train to the last step. Raises ValueError for a checkpoint that Lightning cannot restore."""
    try:
        with ranks.parent_of(trainer.strategy.launcher):
            trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    except SystemExit as stopped:  # the answer to SIGINT and SIGTERM; the latter's would count as success
        _pass_on(survival.stop)
        raise KeyboardInterrupt from stopped
    except Exception as error:
        if not _restoring(error) or isinstance(error, (OSError, torch.OutOfMemoryError)):
            raise
        raise ValueError(
            f"{resumed} cannot be restored ({type(error).__name__}: {error}): move it away to go on from "
            f"{resume.PREVIOUS}, or without that from the start."
        ) from error
    if survival.stop:  # too late to stop the training, but not what follows it
        _pass_on(survival.stop)
        raise KeyboardInterrupt


def _restoring(error: Exception) -> bool:
    """Whether it came out of Lightning's restoring of a checkpoint, and not of what else a training begins with."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).stem == "checkpoint_connector" for frame in frames)


def _pass_on(number: signal.Signals | None) -> None:
    """To submitit, once the training is saved, what it waits for: it puts the job back and ends the process its way."""
    if number in requeue_signals() and callable(signal.getsignal(number)):
        signal.raise_signal(number)


def build_trainer(
    trainer_config: dict[str, Any], logger: list[Logger] | bool, callbacks: list[Callback]
) -> lightning.Trainer:
    """Lightning's Trainer from a resolved trainer group; training is one epoch, which the data makes max_steps long."""
    ours = ("compile", "kernels", "threads", "checkpoint_every_n_steps", "max_steps", "enable_progress_bar")
    if trainer_config["enable_progress_bar"]:
        callbacks = [*callbacks, Steps(trainer_config["max_steps"])]
    try:
        return lightning.Trainer(
            **{name: value for name, value in trainer_config.items() if name not in ours},
            max_epochs=1,
            plugins=[DurableIO()],
            enable_progress_bar=False,  # Lightning's own counts epochs
            enable_checkpointing=False,  # Survival does it
            logger=logger,
            callbacks=callbacks,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # StepSampler shares the batch itself
        )
    except (TypeError, MisconfigurationException, RuntimeError) as error:  # the last is about SLURM's variables
        raise ValueError(f"the trainer settings do not work: {error}") from error

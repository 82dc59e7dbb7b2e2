"""What lets a training be stopped at any moment: when and how to save, when to stop, what never to save."""

import io
import logging
import os
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import SLURMEnvironment

from skipstone.store import files
from skipstone.training import ranks
from skipstone.training.checkpoints.curve import Curve
from skipstone.training.checkpoints.divergence import LOOK, LossWatch
from skipstone.training.checkpoints.resume import CURVE, LAST, MODEL, PREVIOUS

log = logging.getLogger(__name__)

_AGREE = 10  # steps between agreements of several devices on whether to stop
_SUBMITIT = "SUBMITIT_EXECUTOR"  # in the environment of the jobs that submitit starts


class DurableIO(TorchCheckpointIO):
    """Writes a checkpoint to the disk before it takes the place of the one before, which stays as previous.ckpt."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path, buffer = Path(path), io.BytesIO()
        torch.save(checkpoint, buffer)  # in memory, for torch's own writer hides the reason when a disk is full
        with files.replacing(path, previous=path.with_name(PREVIOUS)) as temporary:
            temporary.write_bytes(buffer.getbuffer())


class Survival(Callback):
    """Saves last.ckpt every `every` steps, at every validation and when told to stop; refuses to save a bad state.

    List it before every other callback.

    folder:  where the model is trained
    model:   its key
    curve:   its metrics.csv
    every:   steps between checkpoints
    steps:   of the whole training; Lightning may be told to end before, but then what there is is no model

    A checkpoint is of the moment between two steps: what step k logs is in it, what step k + 1 logs is not. One that
    is due at a step with a validation is saved before that, with a mark that the validation is still to come; so a
    training that is killed while it validates loses no step, and no validation.

    SIGTERM and SIGINT save and raise SystemExit; where SLURM would requeue, so does its signal, and the job is put
    back into the queue, or submitit does it (`fit`). The same signal once more does not wait for the step to end.
    """

    def __init__(self, folder: Path, model: str, curve: Curve, every: int, steps: int) -> None:
        self.path, self.model, self.curve, self.every, self.steps = folder / LAST, model, curve, every, steps
        self.saved = 0  # steps in the last checkpoint
        self.stop: signal.Signals | None = None
        self._lossless = False  # whether nothing would be lost by stopping at once
        self._losses = LossWatch()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a rank, as early as something of ours is reached there: before Lightning connects it to the others."""
        self.__dict__.update(state)
        ranks.quiet()
        ranks.end_with_parent()

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.saved = trainer.global_step
        if threading.current_thread() is threading.main_thread():  # Lightning puts the old handlers back
            for number in (signal.SIGTERM, signal.SIGINT, *requeue_signals()):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # of a terminal's Ctrl-C a worker process hears by SIGINT and, through its parent, by SIGTERM
        again = number == self.stop
        if self.stop is None or number in requeue_signals():  # a cluster may send SIGTERM first
            self.stop = signal.Signals(number)
        if again or self._lossless:
            raise SystemExit(128 + number)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        stop = self._told_to_stop(trainer)
        if stop or trainer.global_step % self.every == 0:
            self._save(trainer, module)
        if stop:
            raise SystemExit(128 + (self.stop or signal.SIGTERM))

    def _told_to_stop(self, trainer: lightning.Trainer) -> bool:
        if trainer.world_size == 1:
            return self.stop is not None
        if trainer.global_step % _AGREE:
            return False
        return trainer.strategy.reduce_boolean_decision(self.stop is not None, all=False)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.add(outputs["loss"])
        if (batch_idx + 1) % LOOK == 0:
            self._examine(trainer, module, weights=False)

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        if progress.ready % trainer.accumulate_grad_batches == 0:  # else gradients lie about, which are not saved
            self._save(trainer, module)
            self._lossless = trainer.world_size == 1 and self.saved == trainer.global_step
        if self._lossless and self.stop:
            raise SystemExit(128 + self.stop)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._lossless = False

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._examine(trainer, module)
        taken = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        if self._early(trainer) and taken == trainer.global_step * trainer.accumulate_grad_batches:  # no half step
            self._save(trainer, module)

    def on_fit_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Raise ValueError unless the last step was reached. Also where no step was to be taken this is called."""
        if self._early(trainer):
            kept = f"{self.path} is of step {self.saved}" if self.saved else "there is no checkpoint yet"
            raise ValueError(
                f"the training ended at step {trainer.global_step} of {self.steps}, so its model is not stored; "
                f"{kept}: leave out the trainer setting that ends it early."
            )

    def _early(self, trainer: lightning.Trainer) -> bool:
        return trainer.global_step < self.steps

    def on_exception(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException
    ) -> None:
        if self.stop in requeue_signals() and _SUBMITIT not in os.environ and trainer.is_global_zero:
            job = SLURMEnvironment.job_id()
            log.info("putting SLURM's job %s back into the queue", job)
            try:
                subprocess.run(["scontrol", "requeue", str(job)], check=False)
            except OSError as error:
                log.error("the step is saved, but the job must be put back by hand: scontrol did not run (%s)", error)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[MODEL], checkpoint[CURVE] = self.model, list(self.curve.rows)
        # Lightning restores where its loops stand, if what they count is a state that it knows.
        loops = checkpoint["loops"]["fit_loop"]
        epoch, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        if self._early(trainer):  # Lightning may think that its epoch is at its end, and so the training
            batches["is_last_batch"] = False
            for progress in (epoch["current"], epoch["total"]):
                progress["processed"] = progress["completed"]
        if trainer.validating:  # its validation has begun, and is to be finished
            validation = loops["epoch_loop.val_loop.batch_progress"]["total"]
            validation["ready"] = validation["started"] = validation["processed"] + 1
        else:  # the step that is about to be taken is not begun
            for progress in batches.values():
                if isinstance(progress, dict):
                    progress["ready"] = progress["completed"]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of the losses."""
        return self._losses.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._losses.load_state_dict(state_dict)

    def _save(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Save, if there is anything new. Where losses are high just now, the next time will tell; unless it stops."""
        if trainer.global_step > self.saved:
            self._examine(trainer, module)
            if self._losses.high and self.stop is None:
                return
            trainer.save_checkpoint(self.path)
            self.saved = trainer.global_step

    def _examine(self, trainer: lightning.Trainer, module: lightning.LightningModule, weights: bool = True) -> None:
        """Raise ValueError if the losses show that it diverged, or if now a weight is not a number."""
        self._losses.look()
        since = self._losses.since
        if since == 0 and weights:
            norms = torch.stack(torch._foreach_norm([parameter.detach() for parameter in module.net.parameters()]))
            since = int(not norms.isfinite().all())
        if since == 0:
            return
        step = trainer.global_step - (since - 1) // trainer.accumulate_grad_batches
        good = 0 < self.saved < step  # told to stop, it saves whatever there is
        kept = (
            f"the last good checkpoint is {self.path}, of step {self.saved}" if good else "no checkpoint was good yet"
        )
        raise ValueError(
            f"the training diverged at step {step}, at a learning rate of {module.learning_rate(step - 1):.3g}, so its "
            f"model is not stored; {kept}: lower training.learning_rate={module.recipe.learning_rate}, which makes it "
            "another model."
        )


def requeue_signals() -> tuple[signal.Signals, ...]:
    """Those that come before a cluster takes the processor away, and after which the job is to be put back."""
    if _SUBMITIT in os.environ:
        return (signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"],)
    return (SLURMEnvironment().requeue_signal,) if SLURMEnvironment.detect() else ()

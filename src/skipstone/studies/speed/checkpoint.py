"""What saving takes of a training's time, by trainer.checkpoint_every_n_steps."""

import statistics
import tempfile
import time
from pathlib import Path

import lightning

from skipstone.network import placement
from skipstone.studies.speed import clock
from skipstone.studies.speed.report import Report
from skipstone.studies.speed.subject import Subject
from skipstone.training.batches import ImageData
from skipstone.training.checkpoints.curve import Curve
from skipstone.training.checkpoints.save import Survival
from skipstone.training.ema import EMA
from skipstone.training.fit import build_trainer
from skipstone.training.module import DiffusionModule

BLOCK = 10  # steps between two checkpoints here


def checkpoint(subject: Subject, report: Report, rounds: int, steps: int) -> None:
    """One training of the job, without validation, that saves after every block of steps; medians of both."""
    settings, recipe, images = subject.settings, subject.recipe, subject.images
    every, steps = settings["checkpoint_every_n_steps"], max(2 * BLOCK, rounds * steps)
    net = placement.layout(subject.network())
    module = DiffusionModule(
        net,
        subject.process,
        recipe,
        0,
        images.flip,
        compiled=settings["compile"],
        kernels=placement.has_kernels(net, settings),
    )
    saves, blocks, began = [], [], [time.perf_counter()]

    class Saves(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
            if trainer.global_step % BLOCK == 0:
                clock.synchronise(subject.device)
                before = time.perf_counter()
                blocks.append((before - began[0]) / BLOCK)
                trainer.save_checkpoint(survival.path)
                began[0] = time.perf_counter()
                saves.append(began[0] - before)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        curve = Curve(folder)
        survival = Survival(folder, "benchmark", curve, every=steps + 1)
        callbacks = [survival, Saves(), EMA(recipe.ema_decay)]
        trainer = build_trainer(settings | {"limit_val_batches": 0, "max_steps": steps}, [curve], callbacks)
        trainer.fit(module, ImageData(images, recipe.batch_size, 0, steps))
        size = survival.path.stat().st_size / 2**20
    save, step = statistics.median(saves[1:]), statistics.median(blocks[1:])
    share = save / (save + every * step)
    report.note("step_seconds", blocks[1:], f"a step        {1e3 * step:9.2f} ms")
    sentence = f"a checkpoint  {1e3 * save:9.2f} ms   ({size:.1f} MiB; {len(saves) - 1} of them, medians)"
    report.note("checkpoint_seconds", saves[1:], sentence)
    report.note("checkpoint_share", share, f"share         {share:9.3%}   of the time, one every {every} steps")

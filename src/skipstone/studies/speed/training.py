"""Lightning's fit, with all that a job gives it, beside a bare loop over the same module, and beside diffusers."""

import tempfile
import time
from functools import partial
from pathlib import Path

import lightning
import torch
from torch import nn

from skipstone.network import placement
from skipstone.report import tracking
from skipstone.studies.speed import clock, peers, profiles
from skipstone.studies.speed.clock import Budget, Contender, Measured
from skipstone.studies.speed.report import Report
from skipstone.studies.speed.subject import Subject
from skipstone.training import optimizers
from skipstone.training.batches import StepSampler, place
from skipstone.training.cuda_graph import Recording
from skipstone.training.fit import fit
from skipstone.training.module import DiffusionModule

WARM_UP = 10  # steps that are not counted
BLOCK = 10  # steps that are timed together on a CPU; on a device they are all
PARTS = 10  # of a sustained training, to see whether it slows down


def training(
    subject: Subject, report: Report, rounds: int, steps: int, budget: Budget, peer: bool, profile: bool, minutes: float
) -> None:
    """Rounds of `steps` steps without validation; then `minutes` of a training with its held-out losses.

    The fit has metrics.csv, a csv logger, the averaged weights, checkpoints and the learning rate's monitor.
    """
    net = placement.layout(subject.network())
    block = steps if subject.device.type == "cuda" else min(BLOCK, steps)
    n = block * subject.recipe.batch_size
    flop = 3 * subject.flop * n  # the backward pass costs twice the forward one
    ways = {"bare loop": bare_times, "trainer.fit": fit_times}
    contenders = [
        Contender(name, partial(way, subject, net, steps, block), n, n, flop, partial(way, subject, net, 1, 1))
        for name, way in ways.items()
    ]
    if peer:
        contenders.append(peers.trainer(subject, steps))
    measured, left_out = clock.alternate(contenders, rounds, budget)
    rows = report.add(measured, left_out, f"batch {subject.recipe.batch_size}")
    if profile:
        profiles.add_to(report, "bare loop", lambda: bare_times(subject, net, 1, 1))
    fits = [row for row in rows if row["name"] == "trainer.fit"]
    if minutes and fits:
        wanted = round(60 * minutes * fits[0]["images_per_second"] / subject.recipe.batch_size)
        _sustained(subject, report, net, max(PARTS, wanted), minutes, budget)


def _sustained(subject: Subject, report: Report, net: nn.Module, steps: int, minutes: float, budget: Budget) -> None:
    if budget.left < 60 * minutes:
        report.add([], [f"{minutes} minutes of training: {max(budget.left, 0):.0f} s are left"])
        return
    parts = fit_times(subject, net, steps // PARTS * PARTS, steps // PARTS, validate=True)
    n = steps // PARTS * subject.recipe.batch_size
    name = f"trainer.fit, {sum(parts) / 60:.1f} minutes"
    whole = Contender(name, list, PARTS * n, PARTS * n, PARTS * 3 * subject.flop * n, list)
    report.add([Measured(whole, seconds=[sum(parts)])], [], "sustained")
    rates = [n / part for part in parts]
    report.note("sustained_images_per_second", rates, f"by tenths: {', '.join(f'{rate:.0f}' for rate in rates)}")


class Clock(lightning.Callback):
    """When each block of steps begins, after the warm-up; the device is waited for there and nowhere else."""

    def __init__(self, block: int, device: torch.device) -> None:
        self.block, self.device, self.times = block, device, []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: object, batch_idx: int
    ) -> None:
        self.tick(batch_idx)

    def tick(self, step: int) -> None:
        """Call at the start of every step."""
        if step >= WARM_UP and (step - WARM_UP) % self.block == 0:
            clock.synchronise(self.device)
            self.times.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Of each block."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def fit_times(subject: Subject, net: nn.Module, steps: int, block: int, validate: bool = False) -> list[float]:
    """Seconds of each block of steps in a training of its own by skipstone.training.fit."""
    watch = Clock(block, subject.device)
    settings = subject.settings | {"max_steps": WARM_UP + steps + 1}
    if not validate:
        settings["limit_val_batches"] = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracker = tracking.csv(job_type="train", run_id=None, group="", directory=folder / "run", config={})
        (folder / "model").mkdir()
        recipe, images = subject.recipe, subject.images
        fit(net, subject.process, images, recipe, settings, 0, folder / "model", tracker, (watch,))
    return watch.seconds


def bare_times(subject: Subject, net: nn.Module, steps: int, block: int) -> list[float]:
    """The same without Lightning: the module, its batches, optimizer, clip and average in a loop.

    With our kernels from a recording, as Lightning's steps are.
    """
    settings, recipe, device, images = subject.settings, subject.recipe, subject.device, subject.images
    kernels = placement.has_kernels(net, settings)
    module = DiffusionModule(
        net, subject.process, recipe, 0, images.flip, compiled=settings["compile"], kernels=kernels
    ).to(device)
    module.train()
    with placement.autocast(settings):
        module.prepare()
    parameters = list(net.parameters())
    averaged = [parameter.detach().clone() for parameter in parameters]
    optimizer = optimizers.build(net, recipe, fused=True)
    watch = Clock(block, device)
    pixels = place(images.train, device)
    sampler = StepSampler(len(pixels), recipe.batch_size, WARM_UP + steps + 1, 0, device=pixels.device)
    recording = None
    for step, indices in enumerate(sampler):
        watch.tick(step)
        batch = pixels.index_select(0, indices).to(device)
        with placement.autocast(settings):
            if not kernels:
                optimizer.zero_grad()
                module.loss(batch, step).backward()
            else:
                recording = recording or Recording(module.loss, parameters, [batch])
                recording([batch], step)
                recording.deliver()
        nn.utils.clip_grad_norm_(parameters, settings["gradient_clip_val"])
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1 - recipe.ema_decay)
    return watch.seconds

"""One model sampled in several cells from the same start noise, and measured."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipstone import engine
from skipstone.data import to_bytes
from skipstone.evaluation.cells import SETTINGS, Cell
from skipstone.evaluation.metrics import SOLVER_RMSE, Measured, Proxies, solver_rmse
from skipstone.evaluation.metrics.metric import flatten
from skipstone.solvers import StepTable

log = logging.getLogger(__name__)

CLOCK = ("seconds", "images_per_second")  # of a cell that was sampled alone; two samplings of one cell differ in them
FILM_SAMPLES = 8
_FILM_FRAMES = 12


@dataclass(frozen=True)
class Film:
    """A cell's first samples after some of its rows t → p, evenly spread, the last included.

    x, x0: uint8 [frames, samples, C, H, W] on the CPU: the state, and the x0 predicted on the way to it.
    """

    t: list[int]
    p: list[int]
    x: Tensor
    x0: Tensor


@dataclass(frozen=True)
class Batch:
    """Cells that were sampled together, in one batch that stays full: only all of them have a measured time.

    cells:    how many
    images:   of all of them
    seconds:  that their sampling took
    """

    cells: int
    images: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """What a cell gave.

    own:       whether it is the cell that the user typed
    samples:   uint8 [n, C, H, W] on the CPU
    facts:     what is known of it beside its metrics: cell, settings, nfe, images, seconds, images_per_second; the last
               two are None where it was sampled together with others
    measured:  its metrics by name
    film:      its first samples on their way from noise
    batch:     the sampling that it was part of; None where that is not known
    lost:      which samples are not finite, and since which t; None where all are finite
    """

    own: bool
    samples: Tensor
    facts: dict[str, Any]
    measured: dict[str, Measured]
    film: Film | None = None
    batch: Batch | None = None
    lost: str | None = None

    @property
    def row(self) -> dict[str, Any]:
        """One line of evaluation.csv, in its order."""
        clock = {name: self.facts[name] for name in CLOCK}
        before = {name: value for name, value in self.facts.items() if name not in CLOCK}
        return {**before, **flatten(self.measured.values()), **clock}

    @property
    def name(self) -> str:
        """The cell's, by which its files and its numbers are found."""
        return self.facts["cell"]

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen for it: schedule, solver, sigma, to_data, clip_x0, tau and eta."""
        return {name: self.facts[name] for name in SETTINGS}


def evaluate(
    model: engine.Model,
    cells: Sequence[Cell],
    shape: tuple[int, ...],
    proxies: Proxies,
    *,
    seed: int,
    batch_size: int,
    fine: Tensor | None = None,
    film: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Sample all cells in one batch that stays full, proxies.n images each from the same start noise; measure them.

    fine: each sample's fine-step solution, for solver_rmse of the deterministic cells (evaluation/fine.py).
    film: whether the first samples' way is kept, too.  progress: as for engine.sample_many.
    Compiling is in nobody's seconds. A cell among others has none of its own: its share would be NFE times a constant.
    """
    tables = [cell.table for cell in cells]
    size = min(batch_size, proxies.n * len(cells))
    engine.warm_up(model, shape, size)
    began = time.perf_counter()
    sampled = engine.sample_many(model, tables, proxies.n, shape, seed=seed, batch_size=size, progress=progress)
    sampled = [x.cpu() for x in sampled]  # waits for the device, so the clock reads finished work
    batch = Batch(len(cells), proxies.n * len(cells), time.perf_counter() - began)
    results = []
    for cell, x in zip(cells, sampled, strict=True):
        shown = _film(model, cell.table, shape, seed) if film else None
        lost = engine.not_finite(model, cell.table, x, seed=seed)
        results.append(measure(cell, x, proxies, fine, batch, shown, lost and str(lost)))
    return results


def measure(
    cell: Cell,
    x: Tensor,
    proxies: Proxies,
    fine: Tensor | None,
    batch: Batch,
    film: Film | None = None,
    lost: str | None = None,
) -> Result:
    """The result of a cell's samples, float [proxies.n, C, H, W] on the CPU, which were sampled in that batch.

    lost: which of them are not finite, as for `Result`.
    """
    alone = batch.cells == 1
    facts = {"cell": cell.name, **cell.settings, "nfe": cell.table.nfe, "images": proxies.n}
    facts |= {
        "seconds": batch.seconds if alone else None,
        "images_per_second": batch.images / batch.seconds if alone else None,
    }
    compares = fine is not None and not cell.table.stochastic
    error = solver_rmse(x, fine.cpu()) if compares else Measured(SOLVER_RMSE, None, SOLVER_RMSE.floor)
    samples = to_bytes(x)
    measured = proxies(samples)
    if lost is None and not x.isfinite().all():
        lost = "some of its samples are not finite (NaN or infinite)"
    if lost is not None:  # as bytes they look like any black image
        log.warning("samples of %s are not finite, so it has no distances: %s", cell.name, lost)
        measured = {name: each.without_value() for name, each in measured.items()}
    return Result(cell.own, samples, facts, {SOLVER_RMSE.name: error, **measured}, film, batch, lost)


def _film(model: engine.Model, table: StepTable, shape: tuple[int, ...], seed: int) -> Film:
    kept = torch.linspace(0, table.nfe - 1, min(_FILM_FRAMES, table.nfe)).round().long().tolist()
    t, p, x, x0 = [], [], [], []
    # a compiled network would be compiled once more for so small a batch
    with torch.compiler.set_stance("force_eager"):
        for i, step in enumerate(engine.trajectory(model, table, FILM_SAMPLES, shape, seed=seed)):
            if i in kept:
                t.append(step.t)
                p.append(step.p)
                x.append(to_bytes(step.x).cpu())
                x0.append(to_bytes(step.x0).cpu())
    return Film(t, p, torch.stack(x), torch.stack(x0))

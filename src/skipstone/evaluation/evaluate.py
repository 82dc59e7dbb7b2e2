"""One model sampled in several cells from the same start noise, and measured."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipstone import engine
from skipstone.data import to_bytes
from skipstone.evaluation.cells import SETTINGS, Cell
from skipstone.evaluation.labels import labels_of
from skipstone.evaluation.metrics import SOLVER_RMSE, Measured, Proxies, solver_rmse
from skipstone.evaluation.metrics.metric import flatten
from skipstone.evaluation.sampled import FILM_SAMPLES, Batch, Film, KeptCells, Sampled, Sampling
from skipstone.progress import Show, nothing, shown
from skipstone.solvers import StepTable

log = logging.getLogger(__name__)

CLOCK = ("seconds", "images_per_second")  # of a cell that was sampled alone; two samplings of one cell differ in them
_FILM_FRAMES = 12


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
    kept: KeptCells | None = None,
    progress: Show = nothing,
) -> list[Result]:
    """Sample all cells in one batch that stays full, proxies.n images each from the same start noise; measure them.

    fine:     each sample's fine-step solution, for solver_rmse of the deterministic cells (evaluation/fine.py)
    film:     whether the first samples' way is kept, too
    kept:     of this model: cells that are there are not sampled again, the others are added
    progress: as for engine.sample_many

    Compiling is in nobody's seconds. A cell among others has none of its own: its share would be NFE times a constant.
    """
    n, compared = proxies.n, 0 if fine is None else len(fine)
    size = min(batch_size, n)  # whatever the other cells: samples of a cell are the same bits in every evaluation
    how, labels = Sampling(shape, seed, size), labels_of(model, n)
    sampled = [kept and kept.read(cell.table, how, n, _compared(cell, compared), film) for cell in cells]
    missing = [i for i, each in enumerate(sampled) if each is None]
    if len(missing) < len(cells):
        log.info("%d of %d cells were sampled before and are kept", len(cells) - len(missing), len(cells))
    if missing:
        tables, asked = [cells[i].table for i in missing], dict(seed=seed, labels=labels)
        engine.warm_up(model, shape, size)
        began = time.perf_counter()
        new = engine.sample_many(model, tables, n, shape, batch_size=size, progress=progress, **asked)
        new = [x.cpu() for x in new]  # waits for the device, so the clock reads finished work
        batch = Batch(len(missing), n * len(missing), time.perf_counter() - began)
        for i, x in zip(missing, new, strict=True):
            table = cells[i].table
            filmed = _film(model, table, shape, seed) if film else None
            lost = engine.not_finite(model, table, x, **asked)
            sampled[i] = Sampled.of(x, batch, _compared(cells[i], compared), filmed, lost and str(lost))
            if kept is not None:
                kept.write(table, how, sampled[i])
    results = []
    with shown("measuring", "cells") as show:
        for cell, each in zip(cells, sampled, strict=True):
            results.append(measure(cell, each, proxies, fine, labels))
            show(len(results), len(cells))
    return results


def _compared(cell: Cell, fine: int) -> int:
    """How many of a cell's samples are compared with the fine solution."""
    return 0 if cell.table.stochastic else fine


def measure(
    cell: Cell, sampled: Sampled, proxies: Proxies, fine: Tensor | None, labels: Tensor | None = None
) -> Result:
    """The result of a cell of which proxies.n images were sampled.  labels: theirs, where the model has classes."""
    batch = sampled.batch
    alone = batch is not None and batch.cells == 1
    facts = {"cell": cell.name, **cell.settings}
    if labels is not None:
        facts["guidance"] = 1.0 if cell.guidance is None else cell.guidance
        facts["guidance_interval"] = "-".join(f"{t:g}" for t in cell.guidance_interval or ())
    facts |= {"nfe": cell.table.nfe, "images": proxies.n}
    facts |= {
        "seconds": batch.seconds if alone else None,
        "images_per_second": batch.images / batch.seconds if alone else None,
    }
    compares = fine is not None and not cell.table.stochastic
    error = solver_rmse(sampled.first, fine.cpu()) if compares else Measured(SOLVER_RMSE, None, SOLVER_RMSE.floor)
    measured = proxies(sampled.images, labels)
    if sampled.lost is not None:  # as bytes they look like any black image
        log.warning("samples of %s are not finite, so it has no distances: %s", cell.name, sampled.lost)
        measured = {name: each.without_value() for name, each in measured.items()}
    return Result(
        cell.own, sampled.images, facts, {SOLVER_RMSE.name: error, **measured}, sampled.film, batch, sampled.lost
    )


def _film(model: engine.Model, table: StepTable, shape: tuple[int, ...], seed: int) -> Film:
    rows = len(table.t)  # a row without an evaluation is one, too
    kept = torch.linspace(0, rows - 1, min(_FILM_FRAMES, rows)).round().long().tolist()
    t, p, x, x0 = [], [], [], []
    # a compiled network would be compiled once more for so small a batch
    with torch.compiler.set_stance("force_eager"):
        labels = labels_of(model, FILM_SAMPLES)
        for i, step in enumerate(engine.trajectory(model, table, FILM_SAMPLES, shape, seed=seed, labels=labels)):
            if i in kept:
                t.append(step.t)
                p.append(step.p)
                x.append(to_bytes(step.x).cpu())
                x0.append(to_bytes(step.x0).cpu())
    return Film(t, p, torch.stack(x), torch.stack(x0))

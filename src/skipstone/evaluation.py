"""Cells: one model sampled at several (schedule, tau, eta) from the same start noise, and measured."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from skipstone import engine
from skipstone.data import to_bytes
from skipstone.metrics import Proxies, solver_rmse
from skipstone.process import ForwardProcess
from skipstone.schedules import Schedule
from skipstone.settings import with_schedule
from skipstone.solvers import Solver, StepTable

log = logging.getLogger(__name__)

SETTINGS = ("schedule", "solver", "sigma", "to_data", "clip_x0", "tau", "eta")
FILM_SAMPLES = 8
_FILM_FRAMES = 12


@dataclass(frozen=True)
class Cell:
    """One way to sample: the settings that evaluation.csv repeats, and the table they amount to."""

    name: str
    settings: dict[str, Any]  # as SETTINGS names them
    table: StepTable
    own: bool  # whether it is the cell the user typed, and not only one of the grid


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
class Result:
    """What a cell gave.

    own: whether it is the cell that the user typed.  samples: uint8 [n, C, H, W] on the CPU.  row: one line of
    evaluation.csv, in its order.
    """

    own: bool
    samples: Tensor
    row: dict[str, Any]
    film: Film | None = None

    @property
    def name(self) -> str:
        """The cell's, by which its files and its numbers are found."""
        return self.row["cell"]

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen for it: schedule, solver, sigma, to_data, clip_x0, tau and eta."""
        return {name: self.row[name] for name in SETTINGS}


def build_cells(
    config: DictConfig,
    process: ForwardProcess,
    taus: Sequence[int],
    etas: Sequence[float],
    further: Mapping[str, Sequence[int] | None] | None = None,
) -> list[Cell]:
    """The grid taus × etas with the configured schedule and solver, and the user's own (tau, eta) if it is not in it.

    further: schedules of conf/schedule by name, whose grids with the same etas follow; their taus, or None for the
    schedule's own. Every table is made here, so that what is not allowed is refused before anything is trained.
    """
    cells = _grid(config, process, taus, etas, [(config.tau, _real(config.eta))])
    for name, its_taus in (further or {}).items():
        other = with_schedule(config, name)
        try:
            cells += _grid(other, process, other.evaluation.taus if its_taus is None else its_taus, etas, [])
        except ValueError as error:
            raise ValueError(f"evaluation.schedules.{name}: {error}") from error
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.name, cell)
    return list(first.values())


def _grid(
    config: DictConfig,
    process: ForwardProcess,
    taus: Sequence[int],
    etas: Sequence[float],
    own: list[tuple[int | None, float]],
) -> list[Cell]:
    if "eta" not in config.solver:  # a solver without noise: there is one column of the grid
        if config.eta != 0:
            raise ValueError(f"eta={config.eta} is not allowed: the solver is deterministic, leave eta at 0.")
        etas = [0.0]
    if "tau" not in config.schedule:  # a schedule that lists its steps: there is one row of the grid
        if config.tau is not None:
            raise ValueError(f"tau={config.tau} is not allowed: the schedule lists its own steps, leave tau out.")
        taus = [None]
    cells = {pair: _cell(config, process, *pair, own=True) for pair in own}
    try:
        grid = dict.fromkeys([*((tau, _real(eta)) for eta in etas for tau in taus), *own])
        return [cells[pair] if pair in cells else _cell(config, process, *pair, own=False) for pair in grid]
    except (ValueError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        raise ValueError(f"{cause} It is a cell of taus={list(taus)} and etas={list(etas)} of evaluation.") from error


def _real(eta: Any) -> Any:
    """1 and 1.0 are one eta; what is no number is left for the solver to refuse."""
    return float(eta) if isinstance(eta, int) and not isinstance(eta, bool) else eta


def _cell(config: DictConfig, process: ForwardProcess, tau: int | None, eta: float, own: bool) -> Cell:
    schedule = instantiate(config.schedule, **({"tau": tau} if "tau" in config.schedule else {}))
    solver = instantiate(config.solver, **({"eta": eta} if "eta" in config.solver else {}))
    return make_cell(process, schedule, solver, own)


def make_cell(process: ForwardProcess, schedule: Schedule, solver: Solver, own: bool = False) -> Cell:
    """The cell of a schedule and a solver. One without a tau has None, one without an eta is deterministic."""
    tau, eta = getattr(schedule, "tau", None), getattr(solver, "eta", 0.0)
    settings = {
        "schedule": schedule.name,
        "solver": solver.name,
        "sigma": getattr(solver, "sigma", ""),
        "to_data": solver.to_data,
        "clip_x0": solver.clip_x0,
        "tau": tau,
        "eta": eta,
    }
    name = f"{solver.name}-{schedule.name}" + ("" if tau is None else f"-tau{tau}") + f"-eta{eta}"
    return Cell(name, settings, solver.table(process, schedule(process.num_steps)), own)


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

    fine: each sample's fine-step solution, for solver_rmse of the deterministic cells (metrics.fine_solution).
    film: whether the first samples' way is kept, too.  progress: as for engine.sample_many.
    A row's seconds are its share of the sampling's, by evaluations; compiling is not in them.
    """
    tables = [cell.table for cell in cells]
    size = min(batch_size, proxies.n * len(cells))
    engine.warm_up(model, shape, size)
    began = time.perf_counter()
    sampled = engine.sample_many(model, tables, proxies.n, shape, seed=seed, batch_size=size, progress=progress)
    sampled = [x.cpu() for x in sampled]  # waits for the device, so the clock reads finished work
    seconds = (time.perf_counter() - began) / sum(table.nfe for table in tables)  # of an evaluation of every sample
    results = []
    for cell, x in zip(cells, sampled, strict=True):
        shown = _film(model, cell.table, shape, seed) if film else None
        results.append(Result(cell.own, to_bytes(x), measured(cell, x, proxies, fine, cell.table.nfe * seconds), shown))
    return results


def measured(cell: Cell, x: Tensor, proxies: Proxies, fine: Tensor | None, seconds: float) -> dict[str, Any]:
    """The row of a cell's samples, float [proxies.n, C, H, W] on the CPU, which took so many seconds."""
    row = {"cell": cell.name, **cell.settings, "nfe": cell.table.nfe, "images": proxies.n}
    row["solver_rmse"] = None if fine is None or cell.table.stochastic else solver_rmse(x, fine.cpu())
    measured = proxies(to_bytes(x))
    if not x.isfinite().all():  # as bytes they look like any black image
        log.warning("samples of %s are not finite, so it has no distances", cell.name)
        measured |= {name: float("nan") for name in measured if not name.endswith("_floor")}
    return row | measured | {"seconds": seconds, "images_per_second": proxies.n / seconds}


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

"""Cells: one model sampled at several (schedule, tau, eta) from the same start noise, and measured."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from skipstone import engine
from skipstone.data import to_bytes
from skipstone.metrics import Proxies, solver_rmse
from skipstone.process import ForwardProcess
from skipstone.solvers import StepTable


@dataclass(frozen=True)
class Cell:
    """One way to sample: the settings that evaluation.csv repeats, and the table they amount to."""

    name: str
    settings: dict[str, Any]  # schedule, solver, sigma, to_data, clip_x0, tau, eta
    table: StepTable
    own: bool  # whether it is the cell the user typed, and not only one of the grid


@dataclass(frozen=True)
class Result:
    """What a cell gave. samples: uint8 [n, C, H, W] on the CPU; row: one line of evaluation.csv, in its order."""

    cell: Cell
    samples: Tensor
    row: dict[str, Any]


def build_cells(config: DictConfig, process: ForwardProcess, taus: Sequence[int], etas: Sequence[float]) -> list[Cell]:
    """The grid taus × etas with the configured schedule and solver, and the user's own (tau, eta) if it is not in it.

    Every table is made here, so that a tau or an eta that is not allowed is refused before anything is trained.
    """
    if "eta" not in config.solver:  # a solver without noise: there is one column of the grid
        if config.eta != 0:
            raise ValueError(f"eta={config.eta} is not allowed: the solver is deterministic, leave eta at 0.")
        etas = [0.0]
    if "tau" not in config.schedule:  # a schedule that lists its steps: there is one row of the grid
        if config.tau is not None:
            raise ValueError(f"tau={config.tau} is not allowed: the schedule lists its own steps, leave tau out.")
        taus = [None]
    own = (config.tau, _real(config.eta))
    cells = [_cell(config, process, *own, own=True)]
    try:
        grid = dict.fromkeys([*((tau, _real(eta)) for eta in etas for tau in taus), own])
        return [cells[0] if pair == own else _cell(config, process, *pair, own=False) for pair in grid]
    except (ValueError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        raise ValueError(f"{cause} It is a cell of taus={list(taus)} and etas={list(etas)} of evaluation.") from error


def _real(eta: Any) -> Any:
    """1 and 1.0 are one eta; what is no number is left for the solver to refuse."""
    return float(eta) if isinstance(eta, int) and not isinstance(eta, bool) else eta


def _cell(config: DictConfig, process: ForwardProcess, tau: int | None, eta: float, own: bool) -> Cell:
    schedule = instantiate(config.schedule, **({"tau": tau} if "tau" in config.schedule else {}))
    solver = instantiate(config.solver, **({"eta": eta} if "eta" in config.solver else {}))
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
    cells: Iterable[Cell],
    shape: tuple[int, ...],
    proxies: Proxies,
    *,
    seed: int,
    batch_size: int,
    fine: Tensor | None = None,
    done: Callable[[Cell], None] = lambda cell: None,
) -> list[Result]:
    """Sample every cell from the same start noise, proxies.n images each, and measure it.

    fine: each sample's fine-step solution, for solver_rmse of the deterministic cells (metrics.fine_solution).
    done: called after each cell. seconds are those of sampling alone.
    """
    results = []
    for cell in cells:
        began = time.perf_counter()
        # .cpu() waits for the device, so the clock reads finished work
        x = engine.sample(model, cell.table, proxies.n, shape, seed=seed, batch_size=batch_size).cpu()
        seconds = time.perf_counter() - began
        samples = to_bytes(x)
        row = {"cell": cell.name, **cell.settings, "nfe": cell.table.nfe, "images": proxies.n}
        row["solver_rmse"] = None if fine is None or cell.table.stochastic else solver_rmse(x, fine.cpu())
        row |= proxies(samples)
        row |= {"seconds": seconds, "images_per_second": proxies.n / seconds}
        results.append(Result(cell, samples, row))
        done(cell)
    return results

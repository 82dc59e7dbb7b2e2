"""Cells: the ways, each a (schedule, solver, tau, eta), in which a model is to be sampled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from skipstone.process import ForwardProcess
from skipstone.schedules import Schedule
from skipstone.solvers import Fitted, Solver, StepTable, guided

SETTINGS = ("schedule", "solver", "sigma", "to_data", "clip_x0", "tau", "eta")


@dataclass(frozen=True)
class Cell:
    """One way to sample: the settings that evaluation.csv repeats, and the table they amount to."""

    name: str
    settings: dict[str, Any]  # as SETTINGS names them
    table: StepTable
    own: bool  # whether it is the cell the user typed, and not only one of the grid
    guidance: float | None = None  # None where the table is not guided
    guidance_interval: tuple[float, ...] | None = None


def make_cell(
    process: ForwardProcess,
    schedule: Schedule,
    solver: Solver,
    own: bool = False,
    guidance: float | None = None,
    guidance_interval: Sequence[float] | None = None,
) -> Cell:
    """The cell of a schedule and a solver. One without a tau has None, one without an eta is deterministic.

    guidance, guidance_interval: as for `solvers.guided`.
    """
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
    return _guided(
        Cell(name, settings, solver.table(process, schedule(process.num_steps)), own), guidance, guidance_interval
    )


def fitted_cell(
    table: StepTable, own: bool = False, guidance: float | None = None, guidance_interval: Sequence[float] | None = None
) -> Cell:
    """The cell of a fitted table, whose steps are of no schedule. Other arguments as for `make_cell`."""
    settings = {"schedule": Fitted.name, "solver": Fitted.name, "sigma": "", "to_data": True, "clip_x0": False}
    cell = Cell(f"{Fitted.name}-nfe{table.nfe}", settings | {"tau": None, "eta": 0.0}, table, own)
    return _guided(cell, guidance, guidance_interval)


def _guided(cell: Cell, guidance: float | None, interval: Sequence[float] | None) -> Cell:
    if guidance is None:
        return cell
    interval = None if interval is None else tuple(interval)
    name = f"{cell.name}-guidance{guidance:g}" + (
        "" if interval is None else "-t" + "-".join(f"{t:g}" for t in interval)
    )
    table = guided(cell.table, guidance, interval)
    return replace(cell, name=name, table=table, guidance=guidance, guidance_interval=interval)

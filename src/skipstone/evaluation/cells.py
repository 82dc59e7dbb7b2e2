"""Cells: the ways, each a (schedule, solver, tau, eta), in which a model is to be sampled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skipstone.process import ForwardProcess
from skipstone.schedules import Schedule
from skipstone.solvers import Solver, StepTable, guided

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
    table = solver.table(process, schedule(process.num_steps))
    if guidance is None:
        return Cell(name, settings, table, own)
    name += f"-guidance{guidance:g}"
    if guidance_interval is not None:
        guidance_interval = tuple(guidance_interval)
        name += "-t" + "-".join(f"{t:g}" for t in guidance_interval)
    return Cell(name, settings, guided(table, guidance, guidance_interval), own, guidance, guidance_interval)

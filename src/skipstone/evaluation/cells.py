"""Cells: the ways, each a (schedule, solver, tau, eta), in which a model is to be sampled."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any

from skipstone.process import ForwardProcess
from skipstone.schedules import Schedule
from skipstone.solvers import Fitted, Solver, StepTable, guided

SETTINGS = ("schedule", "solver", "sigma", "to_data", "clip_x0", "tau", "eta")
_OF_THE_CELL = ("sigma", "to_data", "clip_x0", "eta")  # settings of a solver that have a column of their own


@dataclass(frozen=True)
class Cell:
    """One way to sample: the settings that evaluation.csv repeats, and the table they amount to."""

    name: str
    settings: dict[str, Any]  # as SETTINGS names them
    table: StepTable
    own: bool  # whether it is the cell the user typed, and not only one of the grid
    guidance: float | None = None  # None where the table is not guided
    guidance_interval: tuple[float, ...] | None = None


def label(thing: Solver | Schedule, apart: Collection[str] = ()) -> str:
    """The name of a solver or a schedule, with every setting that differs from its default: edict_mix0.5, ddim_large.

    apart: settings that are told elsewhere. What the name tells by itself (heun_churn1) is not repeated.
    """
    if not is_dataclass(thing):
        return thing.name
    name, told = thing.name, list(_told(thing, apart))
    for field in fields(thing):
        inner = getattr(thing, field.name)
        if is_dataclass(inner) and hasattr(inner, "name"):  # the solver that this one changes
            name = name.replace(inner.name, label(inner, _OF_THE_CELL))
    return "_".join([name, *told])


def _told(thing: Any, apart: Collection[str]) -> Iterator[str]:
    for field in fields(thing):
        value = _plain(getattr(thing, field.name))
        if field.name in apart or field.default is MISSING or value == _plain(field.default):
            continue
        try:
            usual = replace(thing, **{field.name: field.default})
            if usual.name != thing.name or _plain(getattr(usual, field.name)) == value:
                continue
        except ValueError:  # the default does not go with the other settings
            pass
        if isinstance(value, bool):
            yield field.name if value else f"no_{field.name}"
        elif isinstance(value, str):
            yield value
        elif isinstance(value, (int, float, tuple)):
            yield field.name + _short(value)


def _plain(value: Any) -> Any:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(_plain(each) for each in value) if listed else value


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(_short, value))
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


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
        "schedule": label(schedule, ("tau",)),
        "solver": label(solver, _OF_THE_CELL),
        "sigma": getattr(solver, "sigma", ""),
        "to_data": solver.to_data,
        "clip_x0": solver.clip_x0,
        "tau": tau,
        "eta": eta,
    }
    name = f"{label(solver, ('eta',))}-{settings['schedule']}" + ("" if tau is None else f"-tau{tau}") + f"-eta{eta}"
    cell = Cell(name, settings, solver.table(process, schedule(process.num_steps)), own)
    return _guided(cell, guidance, guidance_interval)


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
    name, table = f"{cell.name}-guidance{guidance:g}", guided(cell.table, guidance, interval)
    if interval is not None:
        interval = tuple(interval)
        name += "-t" + "-".join(f"{t:g}" for t in interval)
    return replace(cell, name=name, table=table, guidance=guidance, guidance_interval=interval)

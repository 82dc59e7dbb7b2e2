"""From settings to cells: the grid that a configuration asks for, and the tau of an nfe."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from skipstone.commands.settings import with_schedule
from skipstone.commands.words import typed
from skipstone.evaluation.cells import Cell, fitted_cell, make_cell
from skipstone.process import ForwardProcess
from skipstone.schedules import GITS, Costs, Linspace, Schedule
from skipstone.solvers import DDIM, Fitted, StepTable, reach

log = logging.getLogger(__name__)

_GRIDS = ("evaluation.taus", "evaluation.training.taus", "taus", "exact")


class Suited(Protocol):
    """What suits one model: the costs of jumps for schedule=gits, and its fitted tables for solver=fitted."""

    def costs(self) -> Costs: ...

    def fitted(self, nfe: int) -> StepTable: ...


def choose_taus(config: DictConfig, process: ForwardProcess) -> None:
    """Set tau to that of `nfe`, and evaluation.taus to those of evaluation.nfes, where these are not null.

    Schedules of evaluation.schedules without taus of their own get those of evaluation.nfes, too. A tau that nobody
    typed yields to the schedule: it is none where the schedule lists its steps, and cut to the largest that this
    process has, as defaults are for T = 1000. A fitted table has no schedule: there a tau is a number of evaluations.
    Raises ValueError for what cannot be reached.
    """
    if OmegaConf.select(config, "solver._target_") == f"skipstone.solvers.{Fitted.__name__}":
        _choose_fitted(config)
        _choose_by_nfe(config, process)
        return
    _choose_by_nfe(config, process)
    if "schedule" not in config:  # a command that chooses its own
        return
    if "tau" in config.schedule:
        _cut_defaults(config, process)
    elif not typed() & {"tau", "schedule.tau"}:
        config.tau = None


def _cut_defaults(config: DictConfig, process: ForwardProcess) -> None:
    said, cut = typed(), {}
    if not said & {"tau", "schedule.tau"}:
        (cut["tau"],) = _cut(config, process, [config.tau])
    for key in _GRIDS:
        taus = OmegaConf.select(config, key)
        if taus is not None and key not in said:
            cut[key] = _cut(config, process, taus)
    for name, taus in (OmegaConf.select(config, "evaluation.schedules") or {}).items():
        if taus is None:
            other = with_schedule(config, name)
            further = _cut(other, process, other.evaluation.taus)
            if further != other.evaluation.taus:
                cut[f"evaluation.schedules.{name}"] = further
    changed = {key: taus for key, taus in cut.items() if taus != OmegaConf.select(config, key)}
    for key, taus in changed.items():
        OmegaConf.update(config, key, taus)
    if changed:
        now = ", ".join(f"{key}={taus}" for key, taus in changed.items())
        log.info("defaults are cut to the %d steps of this process: %s", process.num_steps, now)


def _cut(config: DictConfig, process: ForwardProcess, taus: Sequence[Any]) -> list[Any]:
    """These taus, at most the largest that the configured schedule takes on this process, each once."""
    T = process.num_steps
    if not any(isinstance(tau, int) and tau >= T for tau in taus):
        return list(taus)
    visited = make_schedule(config, process, 1, None)(T)
    highest = T - 1 if len(visited) == T else T  # a stride, or a count
    return list(dict.fromkeys(min(tau, highest) if isinstance(tau, int) else tau for tau in taus))


def _choose_by_nfe(config: DictConfig, process: ForwardProcess) -> None:
    if config.get("nfe") is not None:
        config.tau = _tau(config, process, config.nfe)
    nfes = OmegaConf.select(config, "evaluation.nfes")
    if nfes is None:
        return
    config.evaluation.taus = [_tau(config, process, nfe) for nfe in nfes]
    for name, taus in (config.evaluation.schedules or {}).items():
        if taus is None:
            other = with_schedule(config, name)
            config.evaluation.schedules[name] = [_tau(other, process, nfe) for nfe in nfes]


def _choose_fitted(config: DictConfig) -> None:
    """Only tables that are asked for: there need be no others."""
    if config.get("nfe") is None or config.nfe < 2:
        raise ValueError("solver=fitted is of a number of evaluations, 2 at least: give nfe=5, or another one.")
    config.evaluation.taus = [config.nfe]  # every schedule's file has these two
    config.evaluation.training.taus = [config.nfe]
    if "schedules" in config.evaluation:
        config.evaluation.schedules = None


def _tau(config: DictConfig, process: ForwardProcess, nfe: int) -> int | None:
    """The tau of the configured schedule at which the configured solver costs nfe evaluations; None if it has none."""
    solver = instantiate(config.solver)
    if isinstance(solver, Fitted):
        return nfe
    if "tau" in config.schedule:
        schedule = instantiate(config.schedule, _partial_=True)
        if schedule.func is GITS:  # how many steps it visits does not depend on the model
            schedule = partial(schedule, costs=Costs.even(process))
        return reach(solver, schedule, process, nfe)
    cost = solver.table(process, instantiate(config.schedule)(process.num_steps)).nfe
    if cost != nfe:
        raise ValueError(
            f"nfe={nfe} is not allowed: the schedule lists its own steps, which cost {cost}; leave it out."
        )
    return None


def build_cells(
    config: DictConfig,
    process: ForwardProcess,
    taus: Sequence[int],
    etas: Sequence[float],
    further: Mapping[str, Sequence[int] | None] | None = None,
    model: Suited | None = None,
) -> list[Cell]:
    """The grid taus × etas with the configured schedule and solver, and the user's own (tau, eta) if it is not in it.

    further: schedules of conf/schedule by name, whose grids with the same etas follow; their taus, or None for the
    schedule's own. Every table is made here, so that what is not allowed is refused before anything is trained.
    model: for schedule=gits and solver=fitted. Before there is one, Linspace stands in for the first, DDIM on it for
    the other.
    """
    cells = _grid(config, process, taus, etas, [(config.tau, _real(config.eta))], model)
    for name, its_taus in (further or {}).items():
        other = with_schedule(config, name)
        try:
            cells += _grid(other, process, other.evaluation.taus if its_taus is None else its_taus, etas, [], model)
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
    model: Suited | None,
) -> list[Cell]:
    if "eta" not in config.solver:  # a solver without noise: there is one column of the grid
        if config.eta != 0:
            raise ValueError(f"eta={config.eta} is not allowed: the solver is deterministic, leave eta at 0.")
        etas = [0.0]
    if "tau" not in config.schedule:  # a schedule that lists its steps: there is one row of the grid
        if config.tau is not None:
            raise ValueError(f"tau={config.tau} is not allowed: the schedule lists its own steps, leave tau out.")
        taus = [None]
    make = partial(_cell, config, process, model)
    cells = {pair: make(*pair, own=True) for pair in own}
    try:
        grid = dict.fromkeys([*((tau, _real(eta)) for eta in etas for tau in taus), *own])
        return [cells[pair] if pair in cells else make(*pair, own=False) for pair in grid]
    except (ValueError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        raise ValueError(f"{cause} It is a cell of taus={list(taus)} and etas={list(etas)} of evaluation.") from error


def _real(eta: Any) -> Any:
    """1 and 1.0 are one eta; what is no number is left for the solver to refuse."""
    return float(eta) if isinstance(eta, int) and not isinstance(eta, bool) else eta


def make_schedule(config: DictConfig, process: ForwardProcess, tau: int | None, model: Suited | None) -> Schedule:
    """The configured schedule at this tau. model: as for `build_cells`."""
    schedule = instantiate(config.schedule, **({"tau": tau} if "tau" in config.schedule else {}))
    if not isinstance(schedule, GITS):
        return schedule
    if model is not None:
        return replace(schedule, costs=model.costs())
    replace(schedule, costs=Costs.even(process))(process.num_steps)  # refuses a tau that it will not take
    return Linspace(tau)


def _cell(
    config: DictConfig,
    process: ForwardProcess,
    model: Suited | None,
    tau: int | None,
    eta: float,
    own: bool,
) -> Cell:
    solver = instantiate(config.solver, **({"eta": eta} if "eta" in config.solver else {}))
    interval = config.get("guidance_interval")
    guidance = (config.get("guidance"), None if interval is None else list(interval))
    if isinstance(solver, Fitted) and model is not None:
        return fitted_cell(model.fitted(tau), own, *guidance)
    if isinstance(solver, Fitted):
        return make_cell(process, Linspace(tau), DDIM(), own, *guidance)
    return make_cell(process, make_schedule(config, process, tau, model), solver, own, *guidance)

"""What scripts/fit.py is asked for."""

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from skipstone.commands.finished import OpenedModel
from skipstone.commands.grid import choose_taus, make_schedule
from skipstone.fitting.corrections import Form
from skipstone.solvers import StepTable


def take_nfes(config: DictConfig) -> list[int]:
    """The numbers of evaluations, ascending. The configuration keeps one of them, with which it can be checked."""
    if config.out is not None:
        raise ValueError(f"out={config.out} is not allowed: a table lies in its model's folder, so leave it out.")
    if config.eta != 0:
        raise ValueError(f"eta={config.eta} is not allowed: a fitted table is deterministic, leave eta at 0.")
    asked = config.nfe
    nfes = list(asked) if OmegaConf.is_list(asked) else [asked]
    if not nfes or any(type(nfe) is not int or nfe < 2 for nfe in nfes):
        raise ValueError(f"nfe={asked} is not allowed: it is an integer of at least 2, or a list of such.")
    config.nfe = nfes[0]
    return sorted(set(nfes))


def base_of(config: DictConfig, model: OpenedModel, nfe: int) -> dict[str, StepTable]:
    """The table of the solver and the schedule that are named, by its name; empty where none is.

    Raises ValueError for one of the two alone, and for what is no base.
    """
    named = [group for group in ("solver", "schedule") if group in config]
    if not named:
        return {}
    if len(named) == 1:
        raise ValueError(f"a base is a solver on a schedule: beside {named[0]}=, name the other, too.")
    config.nfe = nfe
    choose_taus(config, model.process)
    solver, schedule = instantiate(config.solver), make_schedule(config, model.process, config.tau, model)
    table = solver.table(model.process, schedule(model.process.num_steps))
    name = f"{solver.name} on {schedule.name}"
    try:
        Form.of(table, model.process)
    except ValueError as error:
        raise ValueError(f"{name} is no base of a fit: {error}; choose another solver.") from error
    return {name: table}

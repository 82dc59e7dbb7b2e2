"""What a fit may begin with: solvers of one evaluation per step that need no fit, on several schedules."""

from functools import partial

from skipstone.process import ForwardProcess
from skipstone.schedules import GITS, Costs, Exp, Karras, LogSNR, Polynomial, Trailing
from skipstone.solvers import DEIS, AdamsBashforth, DPMSolverPP, StepTable, UniPC, reach

_SOLVERS = (DPMSolverPP(2), UniPC(2), UniPC(3), DEIS(2), AdamsBashforth(2, "published"))


def bases(process: ForwardProcess, nfe: int, costs: Costs) -> dict[str, StepTable]:
    """Tables of so many evaluations, by name, to clean data.  costs: of the model, for GITS."""
    schedules = (
        Exp,
        Polynomial,
        Trailing,
        partial(LogSNR, betas=process),
        partial(Karras, betas=process),
        partial(GITS, costs=costs),
    )
    tables = {}
    for solver in _SOLVERS:
        for schedule in schedules:
            try:
                visited = schedule(tau=reach(solver, schedule, process, nfe))
            except ValueError:
                continue  # a short process has few steps to choose from
            tables[f"{solver.name} on {visited.name}"] = solver.table(process, visited(process.num_steps))
    return tables

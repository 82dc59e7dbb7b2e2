"""What is tried: families of solvers, each in its variants, on every spacing of the steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from skipstone.process import ForwardProcess
from skipstone.schedules import (
    GITS,
    Costs,
    Exp,
    Karras,
    LogSNR,
    Polynomial,
    Quad,
    Schedule,
    TimeUniform,
    Trailing,
    Uniform,
)
from skipstone.solvers import (
    AFS,
    BELM,
    DDIM,
    DEIS,
    AdamsBashforth,
    DPMSolver,
    DPMSolverPP,
    Heun,
    ProbabilityFlow,
    SASolver,
    SDEDPMSolverPP,
    Solver,
    StepTable,
    UniPC,
    reach,
)


@dataclass(frozen=True)
class Spacing:
    """A schedule and where it ends: on clean data, or at the first visited step, which is t = 0.

    schedule: called with tau.
    """

    name: str
    schedule: Callable[..., Schedule]
    to_data: bool


@dataclass(frozen=True)
class Family:
    """One line of the page: a solver in the variants that are tried."""

    name: str
    variants: tuple[Solver, ...]


@dataclass(frozen=True)
class Candidate:
    """A solver on a spacing, at a number of evaluations."""

    solver: str
    spacing: str
    nfe: int
    table: StepTable


BASE = "karras, to t = 0"  # of DDIM: what shares are of

FAMILIES = (  # the most telling first
    Family("DDIM", (DDIM(),)),
    Family("iPNDM", tuple(AdamsBashforth(order, "published") for order in (2, 3, 4))),
    Family("UniPC", (UniPC(2), UniPC(3))),
    Family("DPM-Solver++", (DPMSolverPP(2), DPMSolverPP(3, "published"))),
    Family("DEIS-tAB", (DEIS(2), DEIS(3))),
    Family("iPNDM with AFS", tuple(AFS(AdamsBashforth(order, "published")) for order in (2, 3, 4))),
    Family("Adams-Bashforth", (AdamsBashforth(2), AdamsBashforth(3))),
    Family("Heun", (Heun(),)),
    Family("DPM-Solver singlestep", (DPMSolver(2), DPMSolver(3), DPMSolver(2, "x0"))),
    Family("O-BELM", (BELM(),)),
    Family("SA-Solver", (SASolver(2, 1, 0.5), SASolver(2, 1, 1.0))),
    Family("UniPC with AFS", (AFS(UniPC(2)), AFS(UniPC(3)))),
    Family("SDE-DPM-Solver++", (SDEDPMSolverPP(2),)),
    Family("probability flow", (ProbabilityFlow(),)),
)


def families(names: Sequence[str] | None) -> list[Family]:
    """Those of these names, or all; raises ValueError for a name that none has."""
    known = {family.name: family for family in FAMILIES}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"solvers={list(names)} is not allowed: {unknown[0]} is none of {', '.join(known)}.")
    return list(FAMILIES) if names is None else [known[name] for name in dict.fromkeys(names)]


def spacings(process: ForwardProcess, costs: Costs) -> list[Spacing]:
    """All that are tried. A schedule that visits t = 0 ends there, too: the step to data costs one evaluation more.

    costs: of jumps along the model's trajectories, for GITS.
    """
    ends_at_0 = {
        "karras": partial(Karras, betas=process),
        "exp": Exp,
        "polynomial": Polynomial,
        "time_uniform": TimeUniform,
        "logsnr": partial(LogSNR, betas=process),
    }
    to_data = {name: ends_at_0[name] for name in ("karras", "exp", "polynomial")}
    to_data |= {"quad": Quad, "trailing": Trailing, "uniform": Uniform, "gits": partial(GITS, costs=costs)}
    return [
        *(Spacing(f"{name}, to t = 0", schedule, False) for name, schedule in ends_at_0.items()),
        *(Spacing(f"{name}, to data", schedule, True) for name, schedule in to_data.items()),
    ]


def candidate(process: ForwardProcess, solver: Solver, spacing: Spacing, nfe: int) -> Candidate | None:
    """The solver on the spacing at nfe evaluations; None where it cannot cost so many."""
    solver = replace(solver, to_data=spacing.to_data)
    try:
        tau = reach(solver, spacing.schedule, process, nfe)
        table = solver.table(process, spacing.schedule(tau=tau)(process.num_steps))
    except ValueError:
        return None
    return Candidate(solver.name, spacing.name, nfe, table) if table.nfe == nfe else None

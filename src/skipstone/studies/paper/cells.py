"""Which cells the tables hold.

The paper spaces CIFAR-10's steps quadratically, τ_i = ⌊c i²⌋ (appendix D.2). Its code takes
⌊linspace(0, √(0.8 T), S)²⌋, whose first steps fall together from S = 50 on: it then evaluates the network twice at one
step, to no effect. Here S counts distinct steps: the same spacing, with the smallest tau that visits S of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace

import torch

from skipstone.evaluation.cells import Cell, make_cell
from skipstone.process import ForwardProcess
from skipstone.schedules import Quad, Schedule, Uniform
from skipstone.solvers import DDIM, Solver, StepTable

# Table 1's rows. The paper's code clips x0 where it takes the larger variance, and nowhere else.
SAMPLERS = {
    "0": DDIM(0.0),
    "0.2": DDIM(0.2),
    "0.5": DDIM(0.5),
    "1": DDIM(1.0),
    "σ̂": DDIM(1.0, sigma="large", clip_x0=True),
}


def exactly(nfe: int, num_steps: int) -> Schedule:
    """The paper's spacing with exactly so many distinct steps; every step for nfe = T. Raises ValueError if none has.

    The smallest such tau of Quad, which for T = 1000 there is up to 688 steps.
    """
    if isinstance(nfe, bool) or not isinstance(nfe, int) or not 1 <= nfe <= num_steps:
        raise ValueError(f"{nfe!r} steps are not allowed: choose integers in 1 ... {num_steps}.")
    if nfe == num_steps:
        return Uniform(tau=1)
    for tau in range(nfe, num_steps + 1):
        if len(Quad(tau)(num_steps)) == nfe:
            return Quad(tau)
    raise ValueError(
        f"{nfe} steps are not allowed: quadratic spacing of {num_steps} visits fewer; choose {num_steps} for all."
    )


def nearest(schedule: Callable[[int], Schedule], nfe: int, num_steps: int) -> Schedule:
    """The schedule at the tau whose number of visited steps comes nearest to nfe, the fewer of two that are as near."""

    def miss(tau: int) -> tuple[int, int]:
        visited = len(schedule(tau)(num_steps))
        return abs(visited - nfe), visited

    return schedule(min(range(1, num_steps), key=miss))


def row_of_table_1(process: ForwardProcess, row: str, nfes: Iterable[int]) -> list[Cell]:
    """The cells of one of SAMPLERS, one an NFE."""
    solver = SAMPLERS[row]
    cells = [make_cell(process, exactly(nfe, process.num_steps), solver) for nfe in nfes]
    if solver.sigma == "large":  # else it is named as eta 1 with the paper's sigma
        cells = [replace(cell, name=f"{cell.name}-sigma_large") for cell in cells]
    return cells


def compared(
    process: ForwardProcess, schedules: Sequence[Callable[[int], Schedule]], solver: Solver, nfes: Iterable[int]
) -> list[Cell]:
    """The solver on each schedule, as near to each NFE as the schedule comes; on Quad exactly there."""
    steps = process.num_steps
    nfes = list(nfes)
    return [
        make_cell(process, exactly(nfe, steps) if kind is Quad else nearest(kind, nfe, steps), solver)
        for kind in schedules
        for nfe in nfes
    ]


def there_and_back(process: ForwardProcess, nfe: int) -> StepTable:
    """Encoding and decoding in nfe steps each, as one table: the engine runs rows, whichever way they go."""
    solver, timesteps = DDIM(), exactly(nfe, process.num_steps)(process.num_steps)
    ways = [solver.encode_table(process, timesteps), solver.table(process, timesteps)]
    columns = [field.name for field in fields(StepTable) if isinstance(getattr(ways[0], field.name), torch.Tensor)]
    return StepTable(**{name: torch.cat([getattr(way, name) for way in ways]) for name in columns})

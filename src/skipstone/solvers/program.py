"""A solver as its paper has it, compiled to the rows of a table.

A program keeps registers and writes a line per stage. A register is a linear combination of what a sampler sees: the
start, every predicted x0 and every noise z. It is a vector of their weights, so the lines are plain arithmetic:

    x0 = program.predict(x, s)                 asks the network at the register x, which ends a row
    x = t.sigma / s.sigma * x + (t.alpha - t.sigma / s.sigma * s.alpha) * x0
    return x

`compiled` turns the registers at which the network was asked into rows. Each is written with the one before, with its
x0, and with what the last few rows have left, which is their x0. It says so where that cannot be done.
"""

import logging
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from skipstone.process import ForwardProcess
from skipstone.solvers.table import Path, StepTable

log = logging.getLogger(__name__)

_EXACT = 1e-10  # relative, of a row to its register
_NOTHING = 1e-13  # relative: a weight that is rounding
_LARGE = 50.0  # a weight that rounding in float32 is worth a word


class Level(NamedTuple):
    """A time in the papers' letters, all plain floats: x_t = α x0 + σ ε, λ = log(α/σ), r = σ/α (EDM's σ)."""

    t: float
    alpha: float
    sigma: float
    lam: float
    r: float


@dataclass
class _Asked:
    x: Tensor  # the register
    start: Level  # where x is
    at: Level  # whose ᾱ turns eps into x0


class Program:
    """The registers and rows of one sampler.

    process: of the network.
    most:    rows, at most.
    """

    def __init__(self, process: ForwardProcess, most: int) -> None:
        self.process = process
        self._size = 1 + 2 * most
        self._asked: list[_Asked] = []
        self.start = self._symbol(0)

    def _symbol(self, place: int) -> Tensor:
        """The start, x0 of row i at 1 + 2 i, or its z at 2 + 2 i."""
        weights = torch.zeros(self._size, dtype=torch.float64)
        weights[place] = 1.0
        return weights

    def levels(self, t: Tensor) -> list[Level]:
        """The levels of these times, int64 or float64 [N]."""
        log_alpha_bar = self.process.log_alpha_bar(t)
        alpha, sigma = torch.exp(0.5 * log_alpha_bar), torch.sqrt(-torch.expm1(log_alpha_bar))
        columns = (t, alpha, sigma, torch.log(alpha) - torch.log(sigma), sigma / alpha)
        return [Level(*numbers) for numbers in zip(*(column.tolist() for column in columns), strict=True)]

    def at_lambda(self, lam: float) -> Level:
        """The level of this λ, at a real time. log ᾱ = −log(1 + e^{−2λ})."""
        log_alpha_bar = -torch.logaddexp(*torch.tensor([[0.0], [-2 * lam]], dtype=torch.float64))
        return self.levels(self.process.step_at(log_alpha_bar))[0]

    def at_ratio(self, r: float) -> Level:
        """The level of this r, at a real time."""
        return self.at_lambda(-math.log(r))

    def predict(self, x: Tensor, at: Level, start: Level | None = None) -> Tensor:
        """x0 = (x − σ eps(x, t))/α, at the cost of one evaluation.

        at:    the level of x.
        start: that of x where it is not the network's: on clean data no network was trained.
        """
        self._asked.append(_Asked(x, at if start is None else start, at))
        return self._symbol(2 * len(self._asked) - 1)

    def predict_eps(self, x: Tensor, at: Level, start: Level | None = None) -> Tensor:
        """eps(x, t) in place of x0."""
        return (x - at.alpha * self.predict(x, at, start)) / at.sigma

    def noise(self) -> Tensor:
        """Fresh z, of which there is one between two evaluations, and none before the first."""
        if not self._asked:
            raise ValueError("a program starts from noise, so it adds none before its first evaluation.")
        return self._symbol(2 * len(self._asked))

    def ddim(self, x: Tensor, s: Level, t: Level) -> Tensor:
        """The deterministic step s → t (Song et al. 2021, Eq. 13), up or down, from or to clean data."""
        if s.sigma == 0:
            return t.alpha / s.alpha * x + t.alpha * (t.r - s.r) * self.predict_eps(x, t, start=s)
        return t.sigma / s.sigma * x + (t.alpha - t.sigma / s.sigma * s.alpha) * self.predict(x, s)

    def compiled(self, x: Tensor, end: Level, integers: bool, clip_x0: bool) -> StepTable:
        """The table that ends in the register x at the level `end`.

        integers: whether its times are to be integers, where all of them are.
        Raises ValueError if a row cannot be written with what stands before it, or if the weights of a register do not
        sum: where eps is 0, an image must be carried on from α x0 to α x0.
        """
        starts = [asked.start for asked in self._asked]
        registers = [asked.x for asked in self._asked]
        self._require_sums([*registers, x], [*starts, end])
        rows = [self._row(i, *pair) for i, pair in enumerate(pairwise([*registers, x]))]
        a, b, s, past = zip(*rows, strict=True)
        c = torch.zeros(len(rows), max(map(len, past)), dtype=torch.float64)
        for i, weights in enumerate(past):
            c[i, : len(weights)] = weights
        times = (starts, [asked.at for asked in self._asked], [*starts[1:], end])
        path = Path(*(torch.tensor([level.t for level in column], dtype=torch.float64) for column in times))
        if integers and all(torch.equal(column, column.round()) for column in path):
            path = Path(*(column.long() for column in path))
        a, b, s = (torch.tensor(column, dtype=torch.float64) for column in (a, b, s))
        table = StepTable.build(self.process, path, a, b, s, c, v=torch.ones_like(a), clip_x0=clip_x0)
        if table.largest_weight > _LARGE:
            log.info("the largest weight of this table is %.3g: float32 loses as much", table.largest_weight)
        return table

    def _require_sums(self, registers: list[Tensor], levels: list[Level]) -> None:
        values = torch.zeros(self._size, dtype=torch.float64)  # of the symbols, where eps is 0
        values[0] = levels[0].alpha
        for i, (register, level) in enumerate(zip(registers, levels, strict=True)):
            value, scale = float(register @ values), float(register.abs() @ values)
            if not abs(value - level.alpha) <= _EXACT * max(scale, 1.0):
                raise ValueError(
                    f"row {i - 1} of the program is inconsistent: of an image without noise it keeps {value:.6g}, "
                    f"and must keep {level.alpha:.6g} at t={level.t:g}; correct its weights."
                )
            if i < len(self._asked):
                values[1 + 2 * i] = value / self._asked[i].at.alpha

    def _row(self, i: int, state: Tensor, goal: Tensor) -> tuple[float, float, float, Tensor]:
        """(a, b, s, c) of goal = a state + b x0 + s z + Σ_k c_k x0 of k + 1 rows ago, with as few k as will do.

        Besides earlier x0 there are the start and earlier z, which the state alone holds. They give a, and then the
        other weights can be read off.
        """
        b, s = float(goal[1 + 2 * i]), float(goal[2 + 2 * i])
        goal, state = goal[: 1 + 2 * i], state[: 1 + 2 * i]
        held = state[::2].abs().argmax()
        a = float(goal[::2][held] / state[::2][held]) if state[::2][held] != 0 else 0.0
        rest = goal - a * state
        scale = float((goal.abs() + abs(a) * state.abs()).max())
        if bool((rest[::2].abs() > _EXACT * scale).any()):
            raise ValueError(
                f"row {i} of the program is inconsistent: the start and the noise that it holds are not those of the "
                "state that the network has seen; write it with that state."
            )
        past = rest[1::2].flip(0)  # the latest first
        needed = (past.abs() > _NOTHING * scale).nonzero()
        return a, b, s, past[: int(needed[-1]) + 1 if len(needed) else 0]

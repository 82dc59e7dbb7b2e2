"""The order conditions of a table's last step."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from skipstone.process import ForwardProcess
from skipstone.solvers.integrals import over_r
from skipstone.solvers.recursion import states
from skipstone.solvers.table import StepTable, noise_ratio

DEGREES = 4
_STAGES = 3  # evaluations of a step, at most
_NODES = 48
_ZERO = 1e-8  # relative: a residual that is rounding


@dataclass(frozen=True)
class Conditions:
    """Order conditions: if what the network gives is a polynomial, how far does the last step miss its integral?

    gives:     in which variable: "x0 in λ", "eps in r", "eps in log r" or "eps in t", where the table does best.
    residuals: by degree, from 0, relative to the step's integral of a constant. A solver that is exact to degree p − 1
               is of order p; one whose residuals shrink as fast with the step is so, too.
    """

    gives: str
    residuals: tuple[float, ...]

    @property
    def exact(self) -> int:
        """How many degrees in a row are met to rounding."""
        return next((j for j, residual in enumerate(self.residuals) if residual > _ZERO), len(self.residuals))


def conditions(table: StepTable, process: ForwardProcess) -> Conditions:
    """The order conditions of the last step of a deterministic table that stays between noise levels."""
    found = [Conditions(gives, _residuals(table, process, gives)) for gives in _VARIABLES]
    return max(found, key=lambda one: (one.exact, -one.residuals[min(one.exact, DEGREES - 1)]))


def _log_r(process: ForwardProcess, t: Tensor) -> Tensor:
    return torch.log(noise_ratio(process, t))


_VARIABLES = {
    "x0 in λ": lambda process, t: -_log_r(process, t),
    "eps in r": noise_ratio,
    "eps in log r": _log_r,
    "eps in t": lambda process, t: t.double(),
}


def _residuals(table: StepTable, process: ForwardProcess, gives: str) -> tuple[float, ...]:
    """By degree. In x_p/σ_p where x0 is given, and in x_p/α_p where eps is, a step adds an integral to the state."""
    variable, gives_x0 = _VARIABLES[gives], gives.startswith("x0")
    levels = torch.cat([table.f[:1], table.p]).double()
    signal, noise = process.alpha_bar(levels).sqrt(), process.one_minus_alpha_bar(levels).sqrt()
    scale = noise if gives_x0 else signal
    before = levels[levels != levels[-1]][-1:]  # a row may end at the level where it started
    last, width = variable(process, levels[-1:]), variable(process, levels[-1:]) - variable(process, before)

    def polynomial(t: Tensor, degree: int) -> Tensor:
        return ((variable(process, t) - last) / width) ** degree

    def integral(degree: int) -> Tensor:
        """∫ polynomial dw up to each level, with w = 1/r where x0 is given, and w = r."""
        total = [torch.zeros((), dtype=torch.float64)]
        for start, stop in pairwise(levels):
            t, dr = over_r(process, start, stop, _NODES)
            dw = -dr / noise_ratio(process, t) ** 2 if gives_x0 else dr
            total.append(total[-1] + (polynomial(t, degree) * dw).sum())
        return torch.stack(total)

    residuals, whole = [], integral(0)
    for degree in range(DEGREES):
        given = polynomial(table.t.double(), degree)

        def predict(i: int, x: Tensor, given: Tensor = given) -> Tensor:
            return (
                given[i] if gives_x0 else (x - table.sqrt_one_minus_alpha_bar[i] * given[i]) / table.sqrt_alpha_bar[i]
            )

        run = torch.stack([torch.zeros((), dtype=torch.float64), *states(table, scale[0] * 0, predict)]) / scale
        missed = run - integral(degree)
        steps = [k for k in range(1, min(_STAGES, len(table.t)) + 1) if levels[-1 - k] != levels[-1]]
        # a step may have several rows, and only its last lands on the integral
        residuals.append(min(float(((missed[-1] - missed[-1 - k]) / (whole[-1] - whole[-1 - k])).abs()) for k in steps))
    return tuple(residuals)

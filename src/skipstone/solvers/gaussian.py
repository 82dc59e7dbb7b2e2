"""The Gaussian problem, whose solution is known: how fast a solver's error falls with more evaluations.

Data are N(0.4, 0.3). The process has 100,000 steps, so that the kinks of log ᾱ between them are not seen. Solvers stop
at t = 2,000, because at clean data all are of first order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from skipstone.checked import checked
from skipstone.noise import linear
from skipstone.process import ForwardProcess
from skipstone.solvers.recursion import states
from skipstone.solvers.stored import Stored
from skipstone.solvers.table import Solver, StepTable, noise_ratio

NFES = (160, 320, 640, 1280)
_MEAN, _VARIANCE = 0.4, 0.3
_LATE, _EARLY = 99_999, 2_000  # between which steps are even in λ
_FROM, _TO = 70_000, 30_000  # and in r
_ROUNDING = 1e-11


@dataclass(frozen=True)
class Convergence:
    """Errors on the Gaussian problem.

    nfes, errors: evaluations and the error of each. Of a deterministic table it is that of the state that starts 1.1
                  deviations above the mean; of a stochastic one, that of the final mean and variance.
    order:        by which the error falls over the last doubling that is above rounding; weak, where there is noise.
    constant:     the error over h^order there, with h the mean step of the variable in which steps are even.
    variable:     that variable: λ, or r.
    """

    nfes: tuple[int, ...]
    errors: tuple[float, ...]
    order: float
    constant: float
    variable: str


@cache
def process() -> ForwardProcess:
    """Of the Gaussian problem."""
    return ForwardProcess(linear(100_000, 1e-6, 2e-4))


@checked
def convergence(solver: Solver, nfes: Sequence[int] = NFES) -> Convergence:
    """Measure the solver on steps that are even in its own variable (`even_in`: λ unless it says r).

    A solver that takes steps of its own besides the visited ones has a method `refined`, see Restart: there are as many
    times more of them. Clipping is left out.

    Raises ValueError for a solver whose error does not fall with more steps, and where fewer than two errors are above
    rounding.
    """
    if isinstance(solver, Stored):
        raise ValueError("a table from a file has its own steps, so how its error falls with more is not known.")
    solver = replace(solver, to_data=False)
    variable = getattr(solver, "even_in", "λ")
    first = solver.table(process(), [0.0, 50_000.0, 99_999.0])
    if first.nfe < len(first.t):
        raise ValueError(
            "the row that asks no network has an error that more steps do not make smaller: measure the solver without."
        )
    spent, errors, widths = [], [], []
    for nfe in nfes:
        count = max(2, round(nfe / (first.nfe / 2)))
        times = _even_in_r(count) if variable == "r" else _even_in_lambda(count)
        finer = solver.refined(nfe / nfes[0]) if hasattr(solver, "refined") else solver
        table = finer.table(process(), times)
        spent.append(table.nfe)
        widths.append(_width(times, variable, count))
        # on steps even in r the order is that of exact first values
        errors.append(_error(table, exact_rows=solver.order - 1 if variable == "r" else 0))
    seen = [k for k, error in enumerate(errors) if error > _ROUNDING]
    if len(seen) < 2:
        raise ValueError(f"the errors of {solver.name} are rounding: measure it with fewer evaluations.")
    before, last = seen[-2:]
    order = math.log(errors[before] / errors[last]) / math.log(spent[last] / spent[before])
    return Convergence(tuple(spent), tuple(errors), order, errors[last] / widths[last] ** order, variable)


def _even_in_lambda(count: int) -> list[float]:
    """count real times, and a few more at the start, where the order builds up."""
    log_r = torch.log(noise_ratio(process(), torch.tensor([_LATE, _EARLY])))
    points = torch.linspace(*log_r.tolist(), count, dtype=torch.float64)
    more = torch.tensor([1 / 256, 1 / 64, 1 / 16, 1 / 4], dtype=torch.float64)
    points = torch.cat([points[:1], points[0] + (points[1] - points[0]) * more, points[1:]])
    return process().step_at(-torch.log1p(torch.exp(2 * points))).flip(0).tolist()


def _even_in_r(count: int) -> list[float]:
    r = noise_ratio(process(), torch.tensor([_TO, _FROM]))
    points = torch.linspace(*r.tolist(), count + 1, dtype=torch.float64)
    return process().step_at(-torch.log1p(points**2)).tolist()


def _width(times: list[float], variable: str, count: int) -> float:
    r = noise_ratio(process(), torch.tensor([times[0], times[-1]], dtype=torch.float64))
    ends = r if variable == "r" else torch.log(r)
    return float(ends[1] - ends[0]) / (count if variable == "r" else count - 1)


def _error(table: StepTable, exact_rows: int) -> float:
    if table.stochastic:
        return math.hypot(*moments(table))
    return trajectory_error(table, exact_rows)


def trajectory_error(table: StepTable, exact_rows: int = 0, z: float = 1.1) -> float:
    """Of the state that starts z deviations above the mean. The first rows land exactly, as many as are asked for."""

    def exact(t: torch.Tensor) -> torch.Tensor:
        alpha_bar = process().alpha_bar(t)
        return alpha_bar.sqrt() * _MEAN + z * (alpha_bar * _VARIANCE + 1 - alpha_bar).sqrt()

    signal = table.sqrt_alpha_bar.tolist()
    ends = exact(table.p).tolist()

    def predict(i: int, x: float) -> float:  # E[x0 | x]
        alpha_bar = signal[i] ** 2
        return (signal[i] * _VARIANCE * x + (1 - alpha_bar) * _MEAN) / (alpha_bar * _VARIANCE + 1 - alpha_bar)

    def landed(i: int, x: float) -> float:
        return ends[i] if i < exact_rows else x

    *_, x = states(table, exact(table.f[0]).item(), predict, landed)
    return abs(x - ends[-1])


def moments(table: StepTable) -> tuple[float, float]:
    """How far the final mean and variance are off, exactly: a state is affine in (1, the start, every z)."""
    alpha_bar = table.sqrt_alpha_bar**2
    spread = alpha_bar * _VARIANCE + 1 - alpha_bar
    x = torch.zeros(len(table.t) + 2, dtype=torch.float64)
    x[1] = 1.0

    def predict(i: int, x: torch.Tensor) -> torch.Tensor:
        x0 = x * table.sqrt_alpha_bar[i] * _VARIANCE / spread[i]
        x0[0] += _MEAN * (1 - alpha_bar[i]) / spread[i]
        return x0

    def landed(i: int, x: torch.Tensor) -> torch.Tensor:
        x[2 + i] += table.s[i]
        return x

    *_, x = states(table, x, predict, landed)
    start, end = process().alpha_bar(table.f[0]), process().alpha_bar(table.p[-1])
    mean = x[0] + x[1] * start.sqrt() * _MEAN
    variance = x[1] ** 2 * (start * _VARIANCE + 1 - start) + (x[2:] ** 2).sum()
    return float(mean - end.sqrt() * _MEAN), float(variance - (end * _VARIANCE + 1 - end))

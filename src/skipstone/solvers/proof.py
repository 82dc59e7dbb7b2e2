"""What can be shown of a solver and its table without a network."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skipstone.checked import checked
from skipstone.process import ForwardProcess
from skipstone.solvers.conditions import DEGREES, Conditions, conditions
from skipstone.solvers.gaussian import Convergence, convergence
from skipstone.solvers.portable import require_process
from skipstone.solvers.recursion import states
from skipstone.solvers.stored import Stored
from skipstone.solvers.table import Path, Solver, StepTable, noise_ratio

_SAME = 1e-8  # of two weights that are one


@dataclass(frozen=True)
class Proof:
    """Facts about a table.

    evaluations:      of the network per sample.
    rows, history:    rows, and how many earlier ones a row reads at most.
    mean, variance:   how far the two identities of Lemma 1 (Song et al. 2021) are missed at the worst row: where the
                      network knows x0, x_t must stay √ᾱ_t x0 + √(1−ᾱ_t) n. Rounding for all solvers but those whose
                      noise is another on purpose, such as sigma=large.
    largest_weight:   rounding in float32 grows by about as much.
    stochastic:       whether any row adds noise.
    conditions:       of order; None for a stochastic table, and for one with fewer than two rows between noise levels.
    stable_to:        the largest λh below which an error shrinks, see `amplification`; None as for conditions.
    solver:           the name of the solver that the next two are of; None without one.
    explicit_inverse: whether it undoes its own steps without a fixed point; None without a solver.
    convergence:      its measured order and error constant, on the Gaussian problem's own process; None without a
                      solver, and for one that has no order.
    left_out:         a sentence for each thing that is None because it cannot be found.
    """

    evaluations: int
    rows: int
    history: int
    mean: float
    variance: float
    largest_weight: float
    stochastic: bool
    conditions: Conditions | None
    stable_to: float | None
    solver: str | None = None
    explicit_inverse: bool | None = None
    convergence: Convergence | None = None
    left_out: tuple[str, ...] = ()

    def lines(self) -> list[tuple[str, str]]:
        """What it says, for people: names and values."""
        told = [
            ("evaluations", str(self.evaluations)),
            ("rows, of them read at most", f"{self.rows}, {self.history}"),
            ("Lemma 1, mean and variance missed by", f"{self.mean:.1e}, {self.variance:.1e}"),
            ("largest weight", f"{self.largest_weight:.3g}"),
            ("noise", "yes" if self.stochastic else "no"),
        ]
        if self.conditions is not None:
            missed = ", ".join(f"{residual:.1e}" for residual in self.conditions.residuals)
            told += [
                (f"last step, {self.conditions.gives}", f"exact for {_degrees(self.conditions.exact)}"),
                (f"missed at degree 0 to {DEGREES - 1}", missed),
                ("stable up to λh an evaluation", f"{self.stable_to:.3g}"),
            ]
        if self.solver is not None:
            told += [("explicit inverse", "yes" if self.explicit_inverse else "no")]
        if self.convergence is not None:
            order, errors = self.convergence.order, self.convergence.errors
            told += [
                (
                    "weak order" if self.stochastic else "order",
                    f"{order:.2f} on steps even in {self.convergence.variable}, of {self.solver} on linear noise",
                ),
                ("error constant", f"{self.convergence.constant:.2g}"),
                *(
                    (f"error at {n} evaluations", f"{e:.2e}")
                    for n, e in zip(self.convergence.nfes, errors, strict=True)
                ),
            ]
        return [*told, *(("left out", why) for why in self.left_out)]


def _degrees(exact: int) -> str:
    return "no degree" if exact == 0 else "degree 0" if exact == 1 else f"{exact} degrees from 0 on"


@checked
def prove(table: StepTable, process: ForwardProcess, solver: Solver | None = None) -> Proof:
    """Count the table's evaluations and check it against the process.

    solver: that made the table, to measure its order on the Gaussian problem; this takes seconds.

    Raises ValueError for a table of another process, for one that the solver does not make of these steps, and for one
    that clips x0: there x_p is not a linear combination of what the network gave.
    """
    require_process(table, process)
    if table.clip_x0:
        raise ValueError("a table that clips x0 is not linear: build it without.")
    if table.guided:
        raise ValueError("a guided table is proved as the table that it was made from: give that one.")
    if solver is not None:
        _require_made_by(solver, table, process)
    mean, noise = _carried(table, process)
    signal_p, variance_p = process.alpha_bar(table.p).sqrt(), process.one_minus_alpha_bar(table.p)
    inner, left_out, measured = between_noise(table), [], None
    followed = not table.stochastic and len(inner.t) > 1 and table.nfe == len(table.t)
    if table.nfe < len(table.t):
        left_out.append("order conditions and stability, because the first row asks no network")
    if solver is not None:
        try:
            measured = convergence(solver)
        except ValueError as error:
            left_out.append(f"the order: {error}")
    return Proof(
        table.nfe,
        len(table.t),
        table.c.shape[1],
        float((mean - signal_p).abs().max()),
        float((noise.square().sum(dim=1) - variance_p).abs().max()),
        table.largest_weight,
        table.stochastic,
        conditions(inner, process) if followed else None,
        _stable_to(inner, process) if followed else None,
        None if solver is None else solver.name,
        None if solver is None else hasattr(solver, "return_table"),
        measured,
        tuple(left_out),
    )


def _require_made_by(solver: Solver, table: StepTable, process: ForwardProcess) -> None:
    """Raise ValueError where the solver's own table visits the same times in the same rows with other weights.

    Where its rows are others, nothing is known: it may visit times between those of the schedule.
    """
    if isinstance(solver, Stored) or not bool((table.f >= table.p).all()):
        return
    visited = sorted({t for t in [*table.f.tolist(), *table.p.tolist()] if t > -1})
    made = replace(solver, to_data=bool(table.p[-1] == -1)).table(process, visited)
    if any(not torch.equal(getattr(made, name).double(), getattr(table, name).double()) for name in ("f", "t", "p")):
        return
    if any(
        getattr(made, name).shape != getattr(table, name).shape
        or not torch.allclose(getattr(made, name), getattr(table, name), rtol=_SAME, atol=_SAME)
        for name in ("a", "b", "s", "c")
    ):
        raise ValueError(
            f"solver={solver.name} did not make this table: of the same steps it makes another; give the solver that "
            "made it, or none."
        )


@checked
def amplification(table: StepTable, process: ForwardProcess, rates: Tensor) -> Tensor:
    """By how much an evaluation multiplies an error, on average: float64, of the shape of `rates`.

    The test problem is eps = κ y/r with y = x/√ᾱ, whose solution r^κ shrinks by e^{−κh} over a step of h in log r. With
    guidance κ is as large as its scale. The table must be deterministic and stay between noise levels.

    rates: float64 [N], κ h with h the mean step of an evaluation: the λh of textbooks.
    """
    r, signal = noise_ratio(process, table.t), process.alpha_bar(table.f).sqrt()
    span = torch.log(noise_ratio(process, table.f[0]) / noise_ratio(process, table.p[-1]))
    kappa = rates.double() * len(table.t) / span

    def predict(i: int, x: Tensor) -> Tensor:
        eps = kappa * x / (signal[i] * r[i])
        return (x - table.sqrt_one_minus_alpha_bar[i] * eps) / table.sqrt_alpha_bar[i]

    *_, x = states(table, torch.ones_like(kappa) * signal[0], predict)
    return (x / process.alpha_bar(table.p[-1]).sqrt()).abs() ** (1 / len(table.t))


def _stable_to(table: StepTable, process: ForwardProcess) -> float:
    rates = torch.linspace(0.05, 10.0, 200, dtype=torch.float64)
    grows = (amplification(table, process, rates) > 1).nonzero()
    if not len(grows):
        return math.inf
    first = int(grows[0])
    return float(rates[first - 1]) if first else 0.0


@checked
def between_noise(table: StepTable) -> StepTable:
    """The rows between noise levels, without those that start or end at clean data."""
    return table.rows(Path(table.f, table.t, table.p).inner)


def _carried(table: StepTable, process: ForwardProcess) -> tuple[Tensor, Tensor]:
    """For a network that gives x0 itself: the weight of x0 after each row [S], and those of the start's n and all z.

    Where it is asked at another time than that of the state, it gives the eps of the start, n.
    """
    x = torch.zeros(2 + len(table.t), dtype=torch.float64)  # of x0, n and each z
    x[0], x[1] = process.alpha_bar(table.f[0]).sqrt(), process.one_minus_alpha_bar(table.f[0]).sqrt()
    x0, n = torch.zeros(2, len(x), dtype=torch.float64)
    x0[0], n[1] = 1.0, 1.0

    def predict(i: int, x: Tensor) -> Tensor:
        if table.f[i] == table.t[i] and table.evaluated[i]:
            return x0
        eps = n if table.evaluated[i] else x
        return (x - table.sqrt_one_minus_alpha_bar[i] * eps) / table.sqrt_alpha_bar[i]

    def landed(i: int, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        z[2 + i] = table.s[i]
        return x + z

    whole = torch.stack(list(states(table, x, predict, landed)))
    return whole[:, 0], whole[:, 1:]

"""Multistep solvers: higher order from what earlier rows left, still at one network evaluation per row.

Rows that start or end at clean data are DDIM's. The order builds up from there: the first row is of order 1, the second
of order 2 at most. Steps may be spaced in any way, because the weights follow the visited steps.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skipstone.checked import check_fields, checked
from skipstone.process import ForwardProcess
from skipstone.solvers.integrals import gauss_legendre, lagrange, over_r
from skipstone.solvers.table import Path, Steps, StepTable, ascend, ddim_row, descend, eps_row, noise_ratio

_EVEN = {2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
_NODES = 24  # of a quadrature, per smooth piece


@dataclass(frozen=True)
class _Multistep:
    """What multistep solvers have in common. `_table` fills the rows of both directions.

    order:   1 (DDIM), 2, 3, and 4 with Adams-Bashforth's weights.
    variant: "exact" or "published", see the classes.
    to_data: take the last step to clean data. False stops at the first visited step.
    clip_x0: clip the predicted x0 to [−1, 1].
    """

    family: ClassVar[str]
    highest: ClassVar[int] = 3
    variants: ClassVar[tuple[str, ...]] = ("exact", "published")
    order: int = 2
    variant: str = "exact"
    to_data: bool = True
    clip_x0: bool = False

    def __post_init__(self) -> None:
        orders = [str(order) for order in range(1, self.highest + 1)]
        if str(self.order) not in orders:
            raise ValueError(
                f"solver.order={self.order} is not available: choose {', '.join(orders[:-1])} or {orders[-1]}."
            )
        if self.variant not in self.variants:
            raise ValueError(f"solver.variant={self.variant!r} is unknown: choose {' or '.join(self.variants)}.")
        check_fields(self)

    @property
    def name(self) -> str:
        """For cells and tables: dpm_solver_pp2, adams_bashforth3_published, ..."""
        return f"{self.family}{self.order}" + ("" if self.variant == "exact" else f"_{self.variant}")

    @checked
    def table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from noise to data over the visited steps (ascending)."""
        return self._table(process, descend(timesteps, process.num_steps, self.to_data), self.clip_x0)

    @checked
    def encode_table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from data to noise. It starts on clean data if `to_data`, else at the first visited step."""
        return self._table(process, ascend(timesteps, process.num_steps, self.to_data, self.clip_x0), False)

    def _table(self, process: ForwardProcess, path: Path, clip_x0: bool) -> StepTable:
        raise NotImplementedError


class DPMSolverPP(_Multistep):
    """DPM-Solver++ multistep (Lu et al. 2022, algorithm 2): steps in λ = log(√ᾱ/√(1−ᾱ)) that predict x0.

    variant: matters for order 3. "exact" takes the second derivative that a third-order step needs. "published" takes
             half of that derivative, as the authors' code and diffusers do, and is of order 2.
    """

    family = "dpm_solver_pp"

    def _table(self, process: ForwardProcess, path: Path, clip_x0: bool) -> StepTable:
        a, b = ddim_row(process, path)
        c = torch.zeros(len(a), self.order - 1, dtype=torch.float64)
        lambdas = -torch.log(noise_ratio(process, path.t))
        signal_p = torch.sqrt(process.alpha_bar(path.p))
        for i, order in enumerate(_orders(path, self.order)):
            if order > 1:
                h = -torch.log(noise_ratio(process, path.p[i])) - lambdas[i]
                weights = signal_p[i] * self._weights(h, lambdas[i - order + 1 : i + 1].flip(0), order)
                b[i], c[i, : order - 1] = weights[0], weights[1:]
        return StepTable.build(process, path, a, b, None, c, torch.zeros_like(a), torch.ones_like(a), clip_x0)

    def _weights(self, h: Tensor, lambdas: Tensor, order: int) -> Tensor:
        """Weights of this x0 and the earlier ones, latest first. D0, D1 and D2 are the paper's, written in these x0."""
        x0 = torch.eye(order, dtype=torch.float64)
        r = (lambdas[:-1] - lambdas[1:]) / h
        phi_1 = torch.expm1(-h)
        D0, D1_0 = x0[0], (x0[0] - x0[1]) / r[0]
        if order == 2:
            return -phi_1 * (D0 + 0.5 * D1_0)
        D1_1 = (x0[1] - x0[2]) / r[1]
        D1 = D1_0 + r[0] / (r[0] + r[1]) * (D1_0 - D1_1)
        D2 = (D1_0 - D1_1) / (r[0] + r[1]) * (2 if self.variant == "exact" else 1)
        return -phi_1 * D0 + (phi_1 / h + 1) * D1 - ((phi_1 + h) / h**2 - 0.5) * D2


class AdamsBashforth(_Multistep):
    """DDIM's step (Eq. 13) with eps extrapolated from earlier rows: Adams-Bashforth in r = √((1−ᾱ)/ᾱ).

    variant: "exact" integrates the polynomial through the visited r. It has its order on any steps.
             "published" takes the weights of even steps on any steps, as PLMS does (Liu et al. 2022); with order 4
             and lower orders first it is iPNDM (Zhang & Chen 2023).
    """

    family = "adams_bashforth"
    highest = 4

    @property
    def even_in(self) -> str:
        """The variable in which the steps must be even for the solver to have its order; λ is the others'."""
        return "r" if self.variant == "published" else "λ"

    def _table(self, process: ForwardProcess, path: Path, clip_x0: bool) -> StepTable:
        r_t, r_p = noise_ratio(process, path.t), noise_ratio(process, path.p)
        k = torch.sqrt(process.alpha_bar(path.p)) * (r_p - r_t)  # Eq. 13
        latest = torch.ones_like(k)
        c = torch.zeros(len(k), self.order - 1, dtype=torch.float64)
        for i, order in enumerate(_orders(path, self.order)):
            if order > 1:
                weights = self._weights(process, path.t[i - order + 1 : i + 1].flip(0), path.p[i])
                latest[i], c[i, : order - 1] = weights[0], k[i] * weights[1:]
        a, b = eps_row(process, path, k * latest)
        a_end, b_end = ddim_row(process, path)
        plain = (c == 0).all(dim=1)  # rows of order 1, and those at clean data
        a, b = torch.where(plain, a_end, a), torch.where(plain, b_end, b)
        noise, signal = torch.sqrt(process.one_minus_alpha_bar(path.t)), torch.sqrt(process.alpha_bar(path.t))
        return StepTable.build(process, path, a, b, None, c, 1 / noise, -signal / noise, clip_x0)

    def _weights(self, process: ForwardProcess, t: Tensor, p: Tensor) -> Tensor:
        """Weights of the eps at t, latest first, on the way to p: exact for polynomials of degree len(t) − 1 in r."""
        if self.variant == "published":
            return torch.tensor(_EVEN[len(t)], dtype=torch.float64)
        r = noise_ratio(process, t)
        nodes = (r - r[0]) / (noise_ratio(process, p) - r[0])
        degrees = torch.arange(len(t), dtype=torch.float64)
        moments = 1 / (degrees + 1)  # ∫₀¹ θ^k dθ
        return torch.linalg.solve(nodes[None, :] ** degrees[:, None], moments)


class DEIS(AdamsBashforth):
    """DEIS: as AdamsBashforth, with a polynomial in another variable than r (Zhang & Chen 2023).

    variant: "exact" is tAB, whose variable is the time t. "log_r" takes log r, as diffusers does.
    """

    family = "deis"
    variants = ("exact", "log_r")

    def _weights(self, process: ForwardProcess, t: Tensor, p: Tensor) -> Tensor:
        """∫ L_j dr from t to p, as shares of r_p − r_t."""
        t, p = t.double(), p.double()
        if self.variant == "log_r":
            theta, weights = gauss_legendre(_NODES)
            log_r = torch.log(noise_ratio(process, t))
            start, stop = log_r[0], torch.log(noise_ratio(process, p))
            at = start + (stop - start) * theta
            integrals = lagrange(log_r, at) @ (weights * torch.exp(at) * (stop - start))  # dr = r dlog r
        else:
            at, dr = over_r(process, t[0], p, _NODES)
            integrals = lagrange(t, at) @ dr
        return integrals / integrals.sum()


def _orders(path: Path, highest: int) -> list[int]:
    """Each row's order: 1 at clean data, and from there one more per row, up to the highest."""
    orders, in_a_row = [], 0
    for inner in path.inner.tolist():
        in_a_row = in_a_row + 1 if inner else 0
        orders.append(min(highest, max(in_a_row, 1)))
    return orders

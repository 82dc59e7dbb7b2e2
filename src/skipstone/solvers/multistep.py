"""Multistep solvers: higher order from what earlier rows left, still at one network evaluation per row.

Rows that start or end at clean data are DDIM's. The order builds up from there: the first row is of order 1, the second
of order 2 at most. Steps may be spaced in any way, because the weights follow the visited steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skipstone.process import ForwardProcess
from skipstone.solvers.table import Path, StepTable, ascend, ddim_row, descend, eps_row, noise_ratio


@dataclass(frozen=True)
class _Multistep:
    """What multistep solvers have in common. `_table` fills the rows of both directions.

    order:   1 (DDIM), 2 or 3.
    variant: "exact" or "published", see the classes.
    to_data: take the last step to clean data. False stops at the first visited step.
    clip_x0: clip the predicted x0 to [−1, 1].
    """

    family: ClassVar[str]
    order: int = 2
    variant: str = "exact"
    to_data: bool = True
    clip_x0: bool = False

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"solver.order={self.order} is not available: choose 1, 2 or 3.")
        if self.variant not in ("exact", "published"):
            raise ValueError(f"solver.variant={self.variant!r} is unknown: choose exact or published.")

    @property
    def name(self) -> str:
        """For cells and tables: dpm_solver_pp2, adams_bashforth3_published, ..."""
        return f"{self.family}{self.order}" + ("_published" if self.variant == "published" else "")

    def table(self, process: ForwardProcess, timesteps: Sequence[float]) -> StepTable:
        """The table from noise to data over the visited steps (ascending)."""
        return self._table(process, descend(timesteps, process.num_steps, self.to_data), self.clip_x0)

    def encode_table(self, process: ForwardProcess, timesteps: Sequence[float]) -> StepTable:
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
             "published" takes the weights of even steps on any steps, as PLMS does (Liu et al. 2022).
    """

    family = "adams_bashforth"

    def _table(self, process: ForwardProcess, path: Path, clip_x0: bool) -> StepTable:
        r_t, r_p = noise_ratio(process, path.t), noise_ratio(process, path.p)
        k = torch.sqrt(process.alpha_bar(path.p)) * (r_p - r_t)  # Eq. 13
        latest = torch.ones_like(k)
        c = torch.zeros(len(k), self.order - 1, dtype=torch.float64)
        for i, order in enumerate(_orders(path, self.order)):
            weights = self._weights(r_p[i] - r_t[i], r_t[i - order + 1 : i + 1].flip(0), order)
            latest[i], c[i, : order - 1] = weights[0], k[i] * weights[1:]
        a, b = eps_row(process, path, k * latest)
        a_end, b_end = ddim_row(process, path)
        plain = (c == 0).all(dim=1)  # rows of order 1, and those at clean data
        a, b = torch.where(plain, a_end, a), torch.where(plain, b_end, b)
        noise, signal = torch.sqrt(process.one_minus_alpha_bar(path.t)), torch.sqrt(process.alpha_bar(path.t))
        return StepTable.build(process, path, a, b, None, c, 1 / noise, -signal / noise, clip_x0)

    def _weights(self, h: Tensor, r: Tensor, order: int) -> Tensor:
        """Weights of this eps and the earlier ones, latest first: exact for polynomials of degree order − 1 in r."""
        if self.variant == "published":
            return torch.tensor([[1.0], [1.5, -0.5], [23 / 12, -16 / 12, 5 / 12]][order - 1], dtype=torch.float64)
        nodes = (r - r[0]) / h
        degrees = torch.arange(order, dtype=torch.float64)
        moments = 1 / (degrees + 1)  # ∫₀¹ θ^k dθ
        return torch.linalg.solve(nodes[None, :] ** degrees[:, None], moments)


def _orders(path: Path, highest: int) -> list[int]:
    """Each row's order: 1 at clean data, and from there one more per row, up to the highest."""
    orders, in_a_row = [], 0
    for inner in path.inner.tolist():
        in_a_row = in_a_row + 1 if inner else 0
        orders.append(min(highest, max(in_a_row, 1)))
    return orders

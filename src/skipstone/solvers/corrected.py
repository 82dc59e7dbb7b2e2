"""Predictor and corrector at one evaluation a step: what the network says of the predicted state corrects that state.

The row that the network sees is the predicted state. The next row starts from the corrected one, which is a combination
of what is at hand, so a table has no row more for it.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from skipstone.solvers.integrals import gauss_legendre, lagrange
from skipstone.solvers.program import Level, Program
from skipstone.solvers.programmed import Programmed

Seen = tuple[Level, Tensor]  # where the network was asked, and the x0 that it gave
_NODES = 48  # of a quadrature: exact to rounding for steps of λ (1 + τ²) up to 100


@dataclass(frozen=True)
class UniPC(Programmed):
    """UniPC in the form that predicts x0, with B(h) = e^h − 1 (Zhao et al. 2023, algorithms 1 and 2, and their code).

    order:     1, 2 or 3: p. With the corrector the error is of order p + 1.
    corrector: whether each state is corrected (UniC). Without, this is UniP, of order p.
    """

    order: int = 3
    corrector: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2, 3):
            raise ValueError(f"solver.order={self.order} is not available: choose 1, 2 or 3.")

    @property
    def name(self) -> str:
        """unipc3, or unip3 without the corrector."""
        return f"{'unipc' if self.corrector else 'unip'}{self.order}"

    def walk(self, program: Program, x: Tensor, levels: list[Level]) -> Tensor:
        seen: list[Seen] = []  # the latest first
        corrected = x
        for s, t in pairwise(levels):
            if s.sigma == 0 or t.sigma == 0:
                x = program.ddim(x, s, t)
                continue
            x0 = program.predict(x, s)
            if seen and self.corrector:
                x = self._moved(corrected, seen, s, x0)
            seen = [(s, x0), *seen][: self.order]
            corrected, x = x, self._moved(x, seen, t)
        return x

    def _moved(self, x: Tensor, seen: list[Seen], t: Level, new: Tensor | None = None) -> Tensor:
        """x at the latest of `seen`, moved to t: predicted, or corrected by the x0 that is new there."""
        (s, x0), *earlier = seen
        h = t.lam - s.lam
        r = [(level.lam - s.lam) / h for level, _ in earlier]
        D = [(other - x0) / r_k for r_k, (_, other) in zip(r, earlier, strict=True)]
        if new is not None:
            r, D = [*r, 1.0], [*D, new - x0]
        B = phi = math.expm1(-h)
        x = t.sigma / s.sigma * x - t.alpha * phi * x0
        for weight, D_k in zip(self._weights(r, h), D, strict=True):
            x = x - t.alpha * B * weight * D_k
        return x

    def _weights(self, r: list[float], h: float) -> list[float]:
        """The paper's a of R a = b, and ½ where there is one."""
        if len(r) == 1:
            return [0.5]
        B, phi, factorial, b = math.expm1(-h), math.expm1(-h) / -h - 1, 1.0, []
        for k in range(len(r)):
            b.append(phi * factorial / B)
            factorial *= k + 2
            phi = phi / -h - 1 / factorial
        R = torch.tensor(r, dtype=torch.float64)[None, :] ** torch.arange(len(r), dtype=torch.float64)[:, None]
        return torch.linalg.solve(R, torch.tensor(b, dtype=torch.float64)).tolist()


@dataclass(frozen=True)
class SASolver(Programmed):
    """SA-Solver: stochastic Adams steps in λ that predict x0, at a constant τ (Xue et al. 2023, algorithm 1).

    The corrector uses the z of the predictor. The authors' code, and diffusers after it, change the weights of second
    order steps, so their numbers differ.

    order:     1 to 4: how many x0 the predictor goes through.
    corrector: 0 to 4: how many earlier x0 the corrector goes through, besides the new one. 0 is without corrector.
    tau:       how much noise: 0 is the probability flow, 1 the reverse SDE. At least 0.
    """

    order: int = 3
    corrector: int = 3
    tau: float = 1.0

    quieter: ClassVar[str] = "set solver.tau=0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2, 3, 4) or self.corrector not in (0, 1, 2, 3, 4):
            raise ValueError(
                f"solver.order={self.order} and solver.corrector={self.corrector} are not available: choose 1 to 4 for "
                "the order, and 0 to 4 for the corrector."
            )
        if not 0 <= self.tau < math.inf:
            raise ValueError(f"solver.tau={self.tau} is not allowed: tau is a number of at least 0.")

    @property
    def name(self) -> str:
        """Such as sa_solver3c3_tau1."""
        return f"sa_solver{self.order}c{self.corrector}_tau{self.tau:g}"

    @property
    def noisy(self) -> bool:
        return self.tau > 0

    def walk(self, program: Program, x: Tensor, levels: list[Level]) -> Tensor:
        seen: list[Seen] = []  # the latest first
        corrected = z = x
        for s, t in pairwise(levels):
            if s.sigma == 0 or t.sigma == 0:
                x = program.ddim(x, s, t)
                continue
            x0 = program.predict(x, s)
            if seen and self.corrector:
                x = self._moved(corrected, seen[0][0], s, [(s, x0), *seen[: self.corrector]], z)
            seen = [(s, x0), *seen][: max(self.order, self.corrector)]
            z = program.noise()
            corrected, x = x, self._moved(x, s, t, seen[: self.order], z)
        return x

    def _moved(self, x: Tensor, s: Level, t: Level, through: list[Seen], z: Tensor) -> Tensor:
        """x from s to t, with the integral of the polynomial through these x0."""
        h, k = t.lam - s.lam, 1 + self.tau**2
        theta, weights = gauss_legendre(_NODES)
        nodes = torch.tensor([(level.lam - s.lam) / h for level, _ in through], dtype=torch.float64)
        b = lagrange(nodes, theta) @ (weights * torch.exp(-k * h * (1 - theta))) * (k * h)
        x = t.sigma / s.sigma * math.exp(-(self.tau**2) * h) * x
        for b_j, (_, x0) in zip(b.tolist(), through, strict=True):
            x = x + t.alpha * b_j * x0
        return x + t.sigma * math.sqrt(-math.expm1(-2 * self.tau**2 * h)) * z if self.tau else x


@dataclass(frozen=True)
class SDEDPMSolverPP(Programmed):
    """SDE-DPM-Solver++: the reverse SDE in λ that predicts x0 (Lu et al. 2022, version 2).

    order:   1 or 2.
    variant: matters for order 2. "multistep" (2M) extrapolates from the step before. "singlestep" (2S) asks at the
             middle in λ, too, and its last step takes one evaluation. The noise of the middle is part of the end's, as
             it is for the exact solution of the SDE (Gonzalez et al. 2023).
    """

    order: int = 2
    variant: str = "multistep"

    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (1, 2):
            raise ValueError(f"solver.order={self.order} is not available: choose 1 or 2.")
        if self.variant not in ("multistep", "singlestep"):
            raise ValueError(f"solver.variant={self.variant!r} is unknown: choose multistep or singlestep.")

    @property
    def name(self) -> str:
        """sde_dpm_solver_pp1, sde_dpm_solver_pp2, or sde_dpm_solver_pp2s."""
        return f"sde_dpm_solver_pp{self.order}" + "s" * self._middle

    @property
    def _middle(self) -> bool:
        return self.order == 2 and self.variant == "singlestep"

    def most(self, steps: int) -> int:
        return (1 + self._middle) * steps

    def walk(self, program: Program, x: Tensor, levels: list[Level]) -> Tensor:
        before: Seen | None = None
        for s, t in pairwise(levels):
            if t.sigma == 0:
                return program.ddim(x, s, t)
            h = t.lam - s.lam
            D = x0 = program.predict(x, s)
            if self._middle:
                m = program.at_lambda(s.lam + h / 2)
                lifted = self._noise(program, m, h / 2)
                D = program.predict(self._moved(x, s, m, x0) + lifted, m)
                fresh = t.sigma / m.sigma * math.exp(-h / 2) * lifted + self._noise(program, t, h / 2)
            else:
                if before is not None and self.order == 2:
                    r0 = (s.lam - before[0].lam) / h
                    D = x0 + 0.5 * (x0 - before[1]) / r0
                fresh = self._noise(program, t, h)
            x = self._moved(x, s, t, D) + fresh
            before = s, x0
        return x

    def _moved(self, x: Tensor, s: Level, t: Level, D: Tensor) -> Tensor:
        h = t.lam - s.lam
        return t.sigma / s.sigma * math.exp(-h) * x - t.alpha * math.expm1(-2 * h) * D

    def _noise(self, program: Program, t: Level, h: float) -> Tensor:
        """What a step of h in λ that ends at t adds."""
        return t.sigma * math.sqrt(-math.expm1(-2 * h)) * program.noise()

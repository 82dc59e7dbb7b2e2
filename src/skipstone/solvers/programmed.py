"""What solvers that are written as programs have in common, and those that take one step at a time.

A row at clean data is DDIM's here, because λ is infinite there. To encode, the same lines run with t above s.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from skipstone.checked import check_fields, checked
from skipstone.process import ForwardProcess
from skipstone.solvers.program import Level, Program
from skipstone.solvers.table import Path, Steps, StepTable, ascend, descend


@dataclass(frozen=True, kw_only=True)
class Programmed:
    """A solver whose `walk` writes a program.

    to_data: take the last step to clean data. False stops at the first visited step.
    clip_x0: clip the predicted x0 to [−1, 1].
    """

    to_data: bool = True
    clip_x0: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    @checked
    def table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from noise to data over the visited steps (ascending)."""
        return self._compiled(process, descend(timesteps, process.num_steps, self.to_data), self.clip_x0)

    @checked
    def encode_table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from data to noise. It starts on clean data if `to_data`, else at the first visited step."""
        if self.noisy:
            raise ValueError(f"solver={self.name} adds noise, and encoding must be deterministic: {self.quieter}.")
        return self._compiled(process, ascend(timesteps, process.num_steps, self.to_data, self.clip_x0), False)

    @property
    def name(self) -> str:
        """For cells and tables."""
        raise NotImplementedError

    noisy: ClassVar[bool] = False
    quieter: ClassVar[str] = "choose a solver without noise"

    def most(self, steps: int) -> int:
        """Rows that so many steps take, at most."""
        return steps

    def walk(self, program: Program, x: Tensor, levels: list[Level]) -> Tensor:
        """The program: from x at the first level to the register at the last."""
        raise NotImplementedError

    def _compiled(self, process: ForwardProcess, path: Path, clip_x0: bool) -> StepTable:
        program = Program(process, self.most(len(path.t)))
        levels = program.levels(torch.cat([path.f[:1], path.p]))
        x = self.walk(program, program.start, levels)
        return program.compiled(x, levels[-1], not path.t.is_floating_point(), clip_x0)


class OneStep(Programmed):
    """A solver that takes each step from its start alone."""

    def walk(self, program: Program, x: Tensor, levels: list[Level]) -> Tensor:
        for s, t in pairwise(levels):
            x = self.step(program, x, s, t)
        return x

    def step(self, program: Program, x: Tensor, s: Level, t: Level) -> Tensor:
        return program.ddim(x, s, t) if s.sigma == 0 or t.sigma == 0 else self.inner(program, x, s, t)

    def inner(self, program: Program, x: Tensor, s: Level, t: Level) -> Tensor:
        """The step between two levels of noise."""
        raise NotImplementedError


@dataclass(frozen=True)
class DPMSolver(OneStep):
    """DPM-Solver, singlestep (Lu et al. 2022, algorithms 1 and 2), and DPM-Solver++ with predicts="x0".

    A step takes as many evaluations as its order, at times between the visited ones, even in λ. The last takes one.

    order:    2 or 3.
    predicts: "eps" is DPM-Solver-2 and -3. "x0" is DPM-Solver++(2S) (algorithm 1 there) and the authors' third order.
    """

    order: int = 2
    predicts: str = "eps"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in (2, 3):
            raise ValueError(f"solver.order={self.order} is not available: choose 2 or 3.")
        if self.predicts not in ("eps", "x0"):
            raise ValueError(f"solver.predicts={self.predicts!r} is unknown: choose eps or x0.")

    @property
    def name(self) -> str:
        """dpm_solver2, dpm_solver_pp3s, …"""
        return f"dpm_solver{self.order}" if self.predicts == "eps" else f"dpm_solver_pp{self.order}s"

    def most(self, steps: int) -> int:
        return self.order * steps

    def inner(self, program: Program, x: Tensor, s: Level, t: Level) -> Tensor:
        step = {("eps", 2): self._eps2, ("eps", 3): self._eps3, ("x0", 2): self._x0_2, ("x0", 3): self._x0_3}
        return step[self.predicts, self.order](program, x, s, t)

    def _eps2(self, program: Program, x: Tensor, s: Level, t: Level) -> Tensor:
        h, r1 = t.lam - s.lam, 1 / 2
        m = program.at_lambda(s.lam + r1 * h)
        eps = program.predict_eps(x, s)
        u = m.alpha / s.alpha * x - m.sigma * math.expm1(r1 * h) * eps
        return t.alpha / s.alpha * x - t.sigma * math.expm1(h) * program.predict_eps(u, m)

    def _eps3(self, program: Program, x: Tensor, s: Level, t: Level) -> Tensor:
        h, r1, r2 = t.lam - s.lam, 1 / 3, 2 / 3
        m1, m2 = program.at_lambda(s.lam + r1 * h), program.at_lambda(s.lam + r2 * h)
        eps = program.predict_eps(x, s)
        u1 = m1.alpha / s.alpha * x - m1.sigma * math.expm1(r1 * h) * eps
        D1 = program.predict_eps(u1, m1) - eps
        u2 = m2.alpha / s.alpha * x - m2.sigma * math.expm1(r2 * h) * eps
        u2 = u2 - m2.sigma * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * D1
        D2 = program.predict_eps(u2, m2) - eps
        x = t.alpha / s.alpha * x - t.sigma * math.expm1(h) * eps
        return x - t.sigma / r2 * (math.expm1(h) / h - 1) * D2

    def _x0_2(self, program: Program, x: Tensor, s: Level, t: Level) -> Tensor:
        h, r1 = t.lam - s.lam, 1 / 2
        m = program.at_lambda(s.lam + r1 * h)
        x0 = program.predict(x, s)
        u = m.sigma / s.sigma * x - m.alpha * math.expm1(-r1 * h) * x0
        D = (1 - 1 / (2 * r1)) * x0 + 1 / (2 * r1) * program.predict(u, m)
        return t.sigma / s.sigma * x - t.alpha * math.expm1(-h) * D

    def _x0_3(self, program: Program, x: Tensor, s: Level, t: Level) -> Tensor:
        h, r1, r2 = t.lam - s.lam, 1 / 3, 2 / 3
        m1, m2 = program.at_lambda(s.lam + r1 * h), program.at_lambda(s.lam + r2 * h)
        x0 = program.predict(x, s)
        u1 = m1.sigma / s.sigma * x - m1.alpha * math.expm1(-r1 * h) * x0
        D1 = program.predict(u1, m1) - x0
        u2 = m2.sigma / s.sigma * x - m2.alpha * math.expm1(-r2 * h) * x0
        u2 = u2 + m2.alpha * r2 / r1 * (math.expm1(-r2 * h) / (r2 * h) + 1) * D1
        D2 = program.predict(u2, m2) - x0
        x = t.sigma / s.sigma * x - t.alpha * math.expm1(-h) * x0
        return x + t.alpha / r2 * (math.expm1(-h) / h + 1) * D2


@dataclass(frozen=True)
class Heun(OneStep):
    """Heun's method in r = √((1−ᾱ)/ᾱ), EDM's σ (Karras et al. 2022, algorithms 1 and 2): order 2, two evaluations.

    churn:     EDM's S_churn: before a step, noise lifts its start from r to r̂ = (1 + γ) r with γ = churn/steps, at most
               √2 − 1. It is 0 for the deterministic sampler. The first step is not lifted: it starts as high as it can.
    s_min:     S_tmin and
    s_max:     S_tmax: the r between which there is churn.
    s_noise:   S_noise: the standard deviation of that noise.
    """

    churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    quieter: ClassVar[str] = "set solver.churn=0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.churn < math.inf and 0 <= self.s_min <= self.s_max and 0 < self.s_noise < math.inf):
            raise ValueError(
                f"solver.churn={self.churn}, s_min={self.s_min}, s_max={self.s_max}, s_noise={self.s_noise} are not "
                "allowed: churn must be at least 0, s_min between 0 and s_max, s_noise above 0."
            )

    @property
    def name(self) -> str:
        """heun, or with its churn, such as heun_churn40."""
        return f"heun_churn{self.churn:g}" if self.churn else "heun"

    @property
    def noisy(self) -> bool:
        return self.churn > 0

    def most(self, steps: int) -> int:
        return 2 * steps

    def walk(self, program: Program, x: Tensor, levels: list[Level]) -> Tensor:
        gamma = min(self.churn / (len(levels) - 1), math.sqrt(2) - 1)
        for i, (s, t) in enumerate(pairwise(levels)):
            if i > 0 and gamma > 0 and self.s_min <= s.r <= self.s_max:
                x, s = lifted(program, x, s, (1 + gamma) * s.r, self.s_noise)
            x = self.step(program, x, s, t)
        return x

    def inner(self, program: Program, x: Tensor, s: Level, t: Level) -> Tensor:
        eps = program.predict_eps(x, s)
        y = t.alpha * (x / s.alpha + (t.r - s.r) * eps)
        return t.alpha * (x / s.alpha + (t.r - s.r) * (eps + program.predict_eps(y, t)) / 2)


def lifted(program: Program, x: Tensor, s: Level, r: float, scale: float = 1.0) -> tuple[Tensor, Level]:
    """x with fresh noise up to this r, or to the last step of the process, and the level there."""
    high = program.at_ratio(r)
    return high.alpha * (x / s.alpha + scale * math.sqrt(high.r**2 - s.r**2) * program.noise()), high

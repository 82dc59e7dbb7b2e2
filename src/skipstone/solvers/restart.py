"""Restart: down to a level of noise, up again by fresh noise, and down once more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from skipstone.solvers.program import Level, Program
from skipstone.solvers.programmed import Heun, Programmed, lifted

_RHO = 7.0


@dataclass(frozen=True)
class Restart(Programmed):
    """Heun's method with restarts (Xu et al. 2023, and their code).

    intervals: of each [steps, repeats, low, high]. Where the visited step nearest to r = low is reached, noise lifts x
               to r = high, and `steps` levels, both ends counted, lead down again, even in r^(1/7); so `repeats` times.
               r is √((1−ᾱ)/ᾱ), EDM's σ. Times are then visited more than once, each time with noise of its own.
    s_noise:   the standard deviation of that noise.

    Where one level of noise alone is visited, there is nothing to restart from. The order is 2 where the restarts get
    finer with the steps (`refined`); with more visited steps alone the error falls to that of the restarts.
    """

    intervals: Sequence[Sequence[float]] = ((3, 2, 0.06, 0.3),)
    s_noise: float = 1.0

    name: ClassVar[str] = "restart"
    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for interval in self.intervals:
            steps, repeats, low, high = interval if len(interval) == 4 else (0, 0, 0, 0)
            if not (int(steps) == steps >= 2 and int(repeats) == repeats >= 1 and 0 < low < high < math.inf):
                raise ValueError(
                    f"solver.intervals={[list(other) for other in self.intervals]} is not allowed: each is [steps, "
                    "repeats, low, high] with at least 2 steps, at least 1 repeat and 0 < low < high."
                )

    def refined(self, factor: float) -> "Restart":
        """The same restarts in `factor` times as many steps."""
        finer = [(round((steps - 1) * factor) + 1, *others) for steps, *others in self.intervals]
        return replace(self, intervals=finer)

    def most(self, steps: int) -> int:
        return 2 * (steps + sum(int(count - 1) * int(repeats) for count, repeats, _, _ in self.intervals))

    def walk(self, program: Program, x: Tensor, levels: list[Level]) -> Tensor:
        heun, last = Heun(), program.levels(torch.tensor([program.process.num_steps - 1]))[0]
        noisy = [i for i, level in enumerate(levels) if i > 0 and level.sigma > 0]
        places = [min(noisy, key=lambda i: abs(levels[i].r - interval[2]), default=0) for interval in self.intervals]
        for i, (s, t) in enumerate(pairwise(levels), start=1):
            x = heun.step(program, x, s, t)
            for place, (steps, repeats, _, high) in zip(places, self.intervals, strict=True):
                if i != place:
                    continue
                if not t.r < high <= last.r:
                    raise ValueError(
                        f"solver.intervals asks for a restart from r={t.r:.3g} up to {high:g}, and it must go up, to "
                        f"at most {last.r:.4g}, the largest noise of this process."
                    )
                roots = torch.linspace(high ** (1 / _RHO), t.r ** (1 / _RHO), int(steps), dtype=torch.float64)
                for _ in range(int(repeats)):
                    x, above = lifted(program, x, t, high, self.s_noise)
                    inner = [above, *(program.at_ratio(float(root**_RHO)) for root in roots[1:-1]), t]
                    for upper, lower in pairwise(inner):
                        x = heun.step(program, x, upper, lower)
        return x

"""Schedules: which of the T steps a sampler visits (the DDIM paper's sub-sequence τ, section 4.2).

A schedule is called with T and returns the visited steps: a tuple of ints, ascending, unique, within 0 … T−1. What
its knob `tau` means differs by schedule, so compare schedules by NFE, not by tau.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol


class Schedule(Protocol):
    """Anything that turns T into visited steps; frozen dataclasses below are the `_target_`s of conf/schedule."""

    name: ClassVar[str]
    tau: int

    def __call__(self, num_steps: int) -> tuple[int, ...]: ...


def _require_tau(schedule: Schedule, meaning: str, highest: int) -> None:
    tau = schedule.tau
    if isinstance(tau, bool) or not isinstance(tau, int) or not 1 <= tau <= highest:
        raise ValueError(
            f"tau={tau!r} is not allowed with schedule={schedule.name}: tau is a {meaning} there, an integer in "
            f"1 ... {highest}."
        )


@dataclass(frozen=True)
class Uniform:
    """Every tau-th step, and the last: range(0, T, tau) ∪ {T−1}. `tau` is the stride, 1 … T−1."""

    name: ClassVar[str] = "uniform"
    tau: int

    def __call__(self, num_steps: int) -> tuple[int, ...]:
        _require_tau(self, "stride", num_steps - 1)
        return tuple(sorted({*range(0, num_steps, self.tau), num_steps - 1}))


@dataclass(frozen=True)
class Exp:
    """Quadratic spacing, dense near the data: floor(linspace(0, √(0.8 T), tau)²) ∪ {T−1}. `tau` is a count, 1 … T.

    The paper calls this spacing quadratic (appendix D.2). Squares that floor to the same integer are visited once,
    so NFE can be smaller than tau.
    """

    name: ClassVar[str] = "exp"
    tau: int

    def __call__(self, num_steps: int) -> tuple[int, ...]:
        _require_tau(self, "count", num_steps)
        root = math.sqrt(0.8 * num_steps)
        # The order of operations decides which way a near-integer square floors; this one is numpy.linspace's.
        squares = {int((i * (root / (self.tau - 1))) ** 2) for i in range(self.tau - 1)} or {0}
        if self.tau > 1:
            squares.add(int(root**2))
        return tuple(sorted({*squares, num_steps - 1}))

"""Schedules that follow a rule (the DDIM paper's sub-sequence τ, section 4.2).

A schedule is called with T and returns the visited steps: a tuple of ints, ascending, unique, within 0 … T−1, or of
floats (see `process`). It raises ValueError for a tau that it cannot take. `tau` is a stride in one schedule and a
count in the others, so compare schedules by NFE, not by tau.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from skipstone.checked import check_fields, checked, is_integer, is_number, plain
from skipstone.process import ForwardProcess, process_of

_ROUNDING = 1e-9  # relative, of a noise level that was a logarithm meanwhile


class Schedule(Protocol):
    """Anything that turns T into visited steps. The dataclasses below are the `_target_`s of conf/schedule."""

    name: ClassVar[str]

    def __call__(self, num_steps: int) -> tuple[float, ...]: ...


class _Counted(Schedule, Protocol):
    tau: int


def require_tau(schedule: _Counted, meaning: str, highest: int) -> None:
    """Raise ValueError unless the schedule's tau is an integer in 1 … highest."""
    tau = schedule.tau
    if not is_integer(tau) or not 1 <= tau <= highest:
        raise ValueError(
            f"tau={tau!r} is not allowed with schedule={schedule.name}: tau is a {meaning} there, an integer in "
            f"1 ... {highest}."
        )
    check_fields(schedule)


@dataclass(frozen=True)
class Uniform:
    """Every tau-th step, and the last: range(0, T, tau) ∪ {T−1}. `tau` is the stride, 1 … T−1."""

    name: ClassVar[str] = "uniform"
    tau: int

    @checked
    def __call__(self, num_steps: int) -> tuple[int, ...]:
        require_tau(self, "stride", num_steps - 1)
        return tuple(sorted({*range(0, num_steps, self.tau), num_steps - 1}))


@dataclass(frozen=True)
class Exp:
    """Quadratic spacing, dense near the data: floor(linspace(0, √(0.8 T), tau)²) ∪ {T−1}. `tau` is a count, 1 … T.

    The paper calls this spacing quadratic (appendix D.2); the name is that of the document that Skipstone grew from.
    Squares that round down to the same integer are visited
    once, so NFE can be smaller than tau.
    """

    name: ClassVar[str] = "exp"
    tau: int

    @checked
    def __call__(self, num_steps: int) -> tuple[int, ...]:
        require_tau(self, "count", num_steps)
        root = math.sqrt(0.8 * num_steps)
        # The order of operations decides how a square next to an integer rounds. This one is numpy.linspace's.
        squares = {int((i * (root / (self.tau - 1))) ** 2) for i in range(self.tau - 1)} or {0}
        if self.tau > 1:
            squares.add(int(root**2))
        return tuple(sorted({*squares, num_steps - 1}))


@dataclass(frozen=True)
class Quad:
    """The official DDIM code's quadratic spacing: floor(linspace(0, √(0.8 T), tau)²). `tau` is a count, 1 … T.

    It is `Exp` without T−1.
    """

    name: ClassVar[str] = "quad"
    tau: int

    @checked
    def __call__(self, num_steps: int) -> tuple[int, ...]:
        require_tau(self, "count", num_steps)
        root = math.sqrt(0.8 * num_steps)
        last = max(1, self.tau - 1)
        # as numpy.linspace, whose last point is the root itself
        points = [i * (root / last) for i in range(self.tau - 1)] + ([root] if self.tau > 1 else [0.0])
        return tuple(sorted({int(point**2) for point in points}))


@dataclass(frozen=True)
class Leading:
    """Every ⌊T/tau⌋-th step from 0 on (Lin et al. 2023, table 2). `tau` is the count, 1 … T.

    T−1 is visited only with tau = T.
    """

    name: ClassVar[str] = "leading"
    tau: int

    @checked
    def __call__(self, num_steps: int) -> tuple[int, ...]:
        require_tau(self, "count", num_steps)
        return tuple(i * (num_steps // self.tau) for i in range(self.tau))


@dataclass(frozen=True)
class Linspace:
    """round(linspace(0, T−1, tau)) (Lin et al. 2023, table 2). `tau` is the count, 1 … T.

    Both ends are visited; tau = 1 visits T−1 alone.
    """

    name: ClassVar[str] = "linspace"
    tau: int

    @checked
    def __call__(self, num_steps: int) -> tuple[int, ...]:
        require_tau(self, "count", num_steps)
        if self.tau == 1:
            return (num_steps - 1,)
        return tuple(round(i * ((num_steps - 1) / (self.tau - 1))) for i in range(self.tau))


@dataclass(frozen=True)
class Trailing:
    """round(T, T − T/tau, …) − 1 (Lin et al. 2023, table 2). `tau` is the count, 1 … T.

    T−1 is visited. 0 is not, up to tau = ⅔ T.
    """

    name: ClassVar[str] = "trailing"
    tau: int

    @checked
    def __call__(self, num_steps: int) -> tuple[int, ...]:
        require_tau(self, "count", num_steps)
        return tuple(sorted(round(num_steps - i * (num_steps / self.tau)) - 1 for i in range(self.tau)))


@dataclass(frozen=True)
class LogSNR:
    """tau steps as evenly spaced in log-SNR as the T steps allow, both ends visited. `tau` is a count, 1 … T.

    betas: the process, or float [T] where it is a ForwardProcess(betas). Not those of another process, such as EDM,
           whose real times they do not tell.
    Near the data the steps of the process may be sparser in log-SNR than asked for. Neighbours then fall together and
    are visited once, so NFE can be smaller than tau.
    """

    name: ClassVar[str] = "logsnr"
    tau: int
    betas: Tensor | ForwardProcess

    @checked
    def __call__(self, num_steps: int) -> tuple[int, ...]:
        require_tau(self, "count", num_steps)
        log_alpha_bar = _process(self, num_steps).log_alpha_bar(torch.arange(num_steps))
        log_snr = log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))
        wanted = torch.linspace(log_snr[-1], log_snr[0], self.tau, dtype=torch.float64)
        nearest = (log_snr[None, :] - wanted[:, None]).abs().argmin(dim=1)
        return tuple(sorted(set(nearest.tolist())))


@dataclass(frozen=True)
class Karras:
    """tau real times, even in r^(1/rho) with r = √((1−ᾱ)/ᾱ), EDM's σ (Karras et al. 2022, Eq. 5). `tau` is a count.

    betas:     the process, or float [T] where it is a ForwardProcess(betas). Not those of another process, such as
               EDM, whose real times they do not tell.
    rho:       at least 1: the larger, the more of the times lie near the data.
    sigma_min: the smallest r, and sigma_max the largest. None is the process's own, r_0 and r_{T−1}. Below r_0 lie the
               times between −1 and 0, where the network is asked at 0.
    """

    name: ClassVar[str] = "karras"
    tau: int
    betas: Tensor | ForwardProcess
    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None

    @checked
    def __call__(self, num_steps: int) -> tuple[float, ...]:
        require_tau(self, "count", num_steps)
        process = _process(self, num_steps)
        first, last = torch.sqrt(1 / process.alpha_bar(torch.tensor([0, num_steps - 1])) - 1).tolist()
        low = first if self.sigma_min is None else self.sigma_min
        high = last if self.sigma_max is None else self.sigma_max
        if not 0 < low < high <= last * (1 + _ROUNDING):
            raise ValueError(
                f"schedule.sigma_min={low:g} and schedule.sigma_max={high:g} are not allowed: they must satisfy "
                f"0 < sigma_min < sigma_max <= {last:g}, the largest noise of this process."
            )
        times = process.step_at(-torch.log1p(_even(high, low, self.tau, self.rho) ** 2)).tolist()  # ᾱ = 1/(1 + r²)
        if self.sigma_max is None:
            times[-1] = float(num_steps - 1)  # to the last bit
        if self.sigma_min is None and self.tau > 1:
            times[0] = 0.0
        return tuple(times)


@dataclass(frozen=True)
class Polynomial:
    """tau real times, even in (t + 1)^(1/rho), from 0 to T−1: DEIS's spacing (Zhang & Chen 2023). `tau` is a count.

    rho: at least 1. 1 is `TimeUniform`, 2 is quadratic.
    """

    name: ClassVar[str] = "polynomial"
    tau: int
    rho: float = 2.0

    @checked
    def __call__(self, num_steps: int) -> tuple[float, ...]:
        require_tau(self, "count", num_steps)
        return tuple((_even(float(num_steps), 1.0, self.tau, self.rho) - 1).tolist())


@dataclass(frozen=True)
class TimeUniform:
    """tau real times, evenly spaced from 0 to T−1, as DPM-Solver names them. `tau` is a count; 1 visits T−1 alone."""

    name: ClassVar[str] = "time_uniform"
    tau: int

    @checked
    def __call__(self, num_steps: int) -> tuple[float, ...]:
        require_tau(self, "count", num_steps)
        return tuple((_even(float(num_steps), 1.0, self.tau, 1.0) - 1).tolist())


def _process(schedule: LogSNR | Karras, num_steps: int) -> ForwardProcess:
    """The schedule's own process. Raises ValueError where it has another number of steps."""
    process = process_of(schedule.betas)
    if process.num_steps != num_steps:
        raise ValueError(
            f"schedule={schedule.name} has a process of {process.num_steps} steps, and {num_steps} are asked for: give "
            f"it the process that is sampled, schedules.{type(schedule).__name__}(tau, process)."
        )
    return process


def _even(high: float, low: float, count: int, rho: float) -> Tensor:
    """`count` numbers from low up to high, even in their rho-th root, both ends exact: float64; one is high alone."""
    if not is_number(rho) or not 1 <= rho < float("inf"):
        raise ValueError(f"schedule.rho={rho!r} is not allowed: rho is a number of at least 1.")
    ends = high ** (1 / rho), low ** (1 / rho)
    numbers = torch.linspace(*ends, count, dtype=torch.float64).flip(0) ** rho
    numbers[0] = low
    numbers[-1] = high
    return numbers


@dataclass(frozen=True)
class Custom:
    """The steps that are listed: schedule=custom schedule.timesteps=[0,10,999]. It has no `tau`.

    timesteps: ints within 0 … T−1, or, where any of them has a point, floats above −1 as well; ascending, unique; a
               list, a tuple, or a tensor or array of one dimension.
    """

    name: ClassVar[str] = "custom"
    timesteps: Sequence[float] | Tensor

    @checked
    def __call__(self, num_steps: int) -> tuple[float, ...]:
        steps = self.timesteps.tolist() if hasattr(self.timesteps, "tolist") else self.timesteps
        # whether they are ascending and within T is for the solver to check, as for any list
        if not isinstance(steps, Sequence) or isinstance(steps, str) or not all(map(is_number, steps)):
            shown = list(steps) if isinstance(steps, Sequence) and not isinstance(steps, str) else steps
            raise ValueError(f"schedule.timesteps={shown!r} is not allowed: list integers or real times.")
        return tuple(plain(step) for step in steps)

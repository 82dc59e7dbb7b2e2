"""The step table: every sampler of this package is a table with one row per network evaluation.

    x0  = (1−w) (x_f − √(1−ᾱ_t) eps) / √ᾱ_t + w h_0    clipped to [−1, 1] where clip_x0 is on
    x_p = a x_f + b x0 + Σ_k c_k h_k + s z              z ~ N(0, I);  h_k: what the row k+1 rows ago left
    h   = u x_f + v x0                                  what this row leaves

A row starts at step f, predicts x0 with the ᾱ of step t and lands on step p; −1 is clean data. f and t are equal,
except where encoding starts on clean data, because no network was trained there. All three are stored, and none is
inferred from a stride. They are int64, or float64 where a schedule visits real times. Only guided tables have a w that
is not 0 (guided.py).
"""

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from skipstone.checked import plain, require
from skipstone.process import ForwardProcess
from skipstone.rng import philox
from skipstone.solvers.aligned import aligned

Steps = Sequence[float]  # the visited steps: ints or floats, ascending


class Path(NamedTuple):
    """Where each row starts (f), asks the network (t) and lands (p): int64 or float64 [S], in the order of the rows."""

    f: Tensor
    t: Tensor
    p: Tensor

    @property
    def inner(self) -> Tensor:
        """Which rows touch no clean data: bool [S]. At the others log-SNR is infinite, so most solvers take DDIM's."""
        return (self.f > -1) & (self.p > -1)


@dataclass(frozen=True)
class StepTable:
    """The rows, in the order in which they run. Columns are [S], on the CPU.

    f, t, p:                  int64 or float64: where the row starts, predicts x0 and lands.
    sqrt_alpha_bar:           float64: √ᾱ_t.
    sqrt_one_minus_alpha_bar: float64: √(1−ᾱ_t). Both turn eps into x0.
    a, b, s:                  float64: the weights of x, x0 and fresh noise.
    c:                        float64 [S, K]: the weights of what the last K rows left, the latest first.
    u, v:                     float64: the weights of x and x0 in what this row leaves.
    asked:                    of the dtype of t: the time that the network is given, in 0 … T−1, where it was trained.
    evaluated:                bool: whether the row asks the network. One that does not takes eps = x_f, and no row
                              before it does.
    clip_x0:                  whether x0 is clipped to [−1, 1] before it is used. What the next row mixes with its own
                              x0 is not: the mixture is.
    start_scale:              the standard deviation of the noise that samples start from, see `ForwardProcess`.
    w:                        float64: the weight of what the row before has left, in this row's x0. Left out: 0.
    null:                     bool: whether the network is asked without the sample's label. Left out: no row is.

    Raises ValueError for a weight that is not finite.
    """

    f: Tensor
    t: Tensor
    p: Tensor
    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    a: Tensor
    b: Tensor
    s: Tensor
    c: Tensor
    u: Tensor
    v: Tensor
    asked: Tensor
    evaluated: Tensor
    clip_x0: bool = False
    start_scale: float = 1.0
    w: Tensor | None = None
    null: Tensor | None = None

    def __post_init__(self) -> None:
        if self.w is None:
            object.__setattr__(self, "w", torch.zeros_like(self.a))
        if self.null is None:
            object.__setattr__(self, "null", torch.zeros(len(self.a), dtype=torch.bool))
        for name in ("sqrt_alpha_bar", "sqrt_one_minus_alpha_bar", "a", "b", "s", "c", "u", "v", "w"):
            wrong = (~getattr(self, name).isfinite()).nonzero()
            if len(wrong):
                i = int(wrong[0, 0])
                raise ValueError(
                    f"the solver's weight {name} is not finite in the row from t={self.t[i].item():g} to "
                    f"{self.p[i].item():g}: visit other steps, or use another solver."
                )

    @classmethod
    def build(
        cls,
        process: ForwardProcess,
        path: Path,
        a: Tensor,
        b: Tensor,
        s: Tensor | None = None,
        c: Tensor | None = None,
        u: Tensor | None = None,
        v: Tensor | None = None,
        clip_x0: bool = False,
    ) -> "StepTable":
        """The table of these columns. Those that are left out are zero, and without c there is no history.

        process: gives √ᾱ_t and √(1−ᾱ_t).
        path:    f, t and p, from `descend` or `ascend`.
        Other arguments as for the class.
        """
        zero = torch.zeros_like(a)
        return cls(
            *path,
            torch.sqrt(process.alpha_bar(path.t)),
            torch.sqrt(process.one_minus_alpha_bar(path.t)),
            a,
            b,
            zero if s is None else s,
            torch.zeros(len(a), 0, dtype=torch.float64) if c is None else c,
            zero if u is None else u,
            zero if v is None else v,
            path.t.clamp(0, process.num_steps - 1),
            torch.ones(len(a), dtype=torch.bool),
            clip_x0,
            process.start_scale(path.t[0].item()),
        )

    def __str__(self) -> str:
        """A line per row. c has a column per row that is looked back at; c and s are left out where they are zero.

        evaluations: of the network, up to this row
        """
        history = {f"c{k + 1}": column for k, column in enumerate(self.c.T)}
        beside = {name: column for name, column in {**history, "s": self.s}.items() if (column != 0).any()}
        weights = {"a": self.a, "b": self.b, **beside}
        columns = {name: [f"{time:g}" for time in times.tolist()] for name, times in {"t": self.t, "p": self.p}.items()}
        columns |= {name: [f"{weight + 0.0:.6g}" for weight in column.tolist()] for name, column in weights.items()}
        return aligned({**columns, "evaluations": [str(n) for n in self.evaluated.cumsum(0).tolist()]})

    def rows(self, which: Tensor | Sequence[int]) -> "StepTable":
        """The table of these rows, in this order.  which: their numbers, or a bool for each row."""
        columns = {name: value[which] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **columns)

    @property
    def nfe(self) -> int:
        """Network evaluations per sample."""
        return int(self.evaluated.sum())

    @property
    def noise_keys(self) -> Tensor:
        """Which noise each row draws: int64 [S] in 0 … 2^32−1, a function of its t and of how often t came before.

        At the first visit of an integer it is t itself, so tables share the noise of the steps that they share. What
        else there is gets a hash from 2^31 on.
        """
        keys, visits = [], Counter()
        for t, first_half in zip(self.t.tolist(), self.first_halves.tolist(), strict=True):
            keys.append(int(t) if visits[t] == 0 and t >= 0 and t == int(t) else _hashed(t, visits[t]))
            visits[t] += not first_half  # guidance leaves the noise as it is
        return torch.tensor(keys)

    @property
    def first_halves(self) -> Tensor:
        """Which rows move nothing and leave their x0 for the next one: bool [S]."""
        return torch.cat([self.w[1:] != 0, torch.zeros(1, dtype=torch.bool)])

    @property
    def guided(self) -> bool:
        """Whether any row is asked with a label and once more without."""
        return bool((self.w != 0).any())

    @property
    def largest_weight(self) -> float:
        """The largest of |a|, |b|, |c| and |s|. Rounding in float32 grows by about as much."""
        return max(float(column.abs().max()) for column in (self.a, self.b, self.c, self.s) if column.numel())

    @property
    def stochastic(self) -> bool:
        """Whether any row adds noise."""
        return bool((self.s != 0).any())


class Solver(Protocol):
    """Anything that fills a table from noise to data: see docs/extending.md for one of your own."""

    to_data: bool
    clip_x0: bool

    @property
    def name(self) -> str: ...

    def table(self, process: ForwardProcess, timesteps: Steps) -> StepTable: ...


def descend(timesteps: Steps, num_steps: int, to_data: bool) -> Path:
    """From the last visited step to the first, and on to clean data if `to_data`."""
    visited = _checked(timesteps, num_steps, to_data)
    path = _as_tensor(visited[::-1] + ([-1] if to_data else []))
    return Path(path[:-1], path[:-1], path[1:])


def ascend(timesteps: Steps, num_steps: int, to_data: bool, clip_x0: bool) -> Path:
    """From clean data if `to_data`, else from the first visited step, up to the last.

    The row that starts on clean data asks the network at the first visited step. Raises ValueError for clip_x0.
    """
    if clip_x0:
        raise ValueError("solver.clip_x0=true cannot be undone, so there is no encoding with it: set it to false.")
    visited = _checked(timesteps, num_steps, to_data)
    path = _as_tensor(([-1] if to_data else []) + visited)
    return Path(path[:-1], path[:-1].clamp(min=visited[0]), path[1:])


def _checked(timesteps: Steps, num_steps: int, to_data: bool) -> list[float]:
    require("timesteps", timesteps, Steps)
    steps = timesteps.tolist() if hasattr(timesteps, "tolist") else plain(list(timesteps))
    real = any(isinstance(step, float) for step in steps)
    inside = all((step > -1 if real else step >= 0) and step <= num_steps - 1 for step in steps)  # not so of a nan
    if not steps or not inside or any(step >= later for step, later in pairwise(steps)):
        allowed = f"0 ... {num_steps - 1}" + (" (real times above -1)" if real else "")
        raise ValueError(
            f"visited steps must be ascending, unique and within {allowed}, got {steps}: correct schedule.timesteps, "
            "or the schedule's other settings."
        )
    if len(steps) < 2 and not to_data:
        raise ValueError("one visited step and to_data=false leave nothing to do: visit two steps or set to_data=true.")
    return steps


def _as_tensor(steps: list[float]) -> Tensor:
    return torch.tensor(steps, dtype=torch.float64 if any(isinstance(step, float) for step in steps) else torch.int64)


def _hashed(t: float, visit: int) -> int:
    """31 bits of (t, visit), behind a 1: no step of a process is so late."""
    low, high = struct.unpack("<II", struct.pack("<d", t))
    return 1 << 31 | philox((low, high, visit, 0), (0, 0))[0] >> 1


def noise_ratio(process: ForwardProcess, t: Tensor) -> Tensor:
    """r_t = √((1−ᾱ_t)/ᾱ_t), the noise level of x_t/√ᾱ_t. In this variable Eq. 13 is an Euler step."""
    return torch.sqrt(process.one_minus_alpha_bar(t) / process.alpha_bar(t))


def eps_row(process: ForwardProcess, path: Path, k: Tensor) -> tuple[Tensor, Tensor]:
    """(a, b) of x_p = √(ᾱ_p/ᾱ_f) x_f + k eps, with eps written in x_f and x0."""
    log_alpha_bar_p, log_alpha_bar_f = process.log_alpha_bar(path.p), process.log_alpha_bar(path.f)
    noise, signal = torch.sqrt(process.one_minus_alpha_bar(path.t)), torch.sqrt(process.alpha_bar(path.t))
    a = torch.exp(0.5 * (log_alpha_bar_p - log_alpha_bar_f)) + k / noise
    b = -k * signal / noise
    return a, b


def ddim_row(process: ForwardProcess, path: Path) -> tuple[Tensor, Tensor]:
    """(a, b) of the deterministic DDIM step (Song et al. 2021, Eq. 13), up or down."""
    k = torch.sqrt(process.alpha_bar(path.p)) * (noise_ratio(process, path.p) - noise_ratio(process, path.f))
    from_data = eps_row(process, path, k)
    # the same where f = t, in a form that is exact for a row that lands on x0 itself
    a = torch.sqrt(process.one_minus_alpha_bar(path.p)) / torch.sqrt(process.one_minus_alpha_bar(path.t))
    b = torch.sqrt(process.alpha_bar(path.p)) - a * torch.sqrt(process.alpha_bar(path.t))
    plain = path.f == path.t
    return torch.where(plain, a, from_data[0]), torch.where(plain, b, from_data[1])

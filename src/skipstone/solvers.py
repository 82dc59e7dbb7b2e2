"""Solvers: each turns (process, visited steps) into a table of coefficients that the engine runs.

Every sampler of this package is one row a network evaluation (design: "a sampler is a table"):

    x0  = (x_t − √(1−ᾱ_t) eps) / √ᾱ_t
    x_p = a x_t + b x0 + s z,        z ~ N(0, I)

so a solver is a function that fills the columns a, b and s. p is stored, never inferred from a stride; p = −1 is
clean data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from skipstone.process import ForwardProcess


@dataclass(frozen=True)
class StepTable:
    """One row a network evaluation, in the order in which the rows run. All columns [S], on the CPU.

    t: int64, the network's time.  p: int64, where the row lands (−1: clean data).
    sqrt_alpha_bar, sqrt_one_minus_alpha_bar: float64, √ᾱ_t and √(1−ᾱ_t), which turn eps into x0.
    a, b, s: float64, the weights of x_t, x0 and fresh noise.
    clip_x0: whether x0 is clipped to [−1, 1] before it is used (eps is thereby re-derived from it).
    """

    t: Tensor
    p: Tensor
    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    a: Tensor
    b: Tensor
    s: Tensor
    clip_x0: bool = False

    @property
    def nfe(self) -> int:
        """Network evaluations that a sample costs."""
        return len(self.t)

    @property
    def stochastic(self) -> bool:
        """Whether any row adds noise."""
        return bool((self.s != 0).any())


class Solver(Protocol):
    """Anything that fills a table from noise to data; the classes below are the `_target_`s of conf/solver."""

    name: ClassVar[str]
    to_data: bool
    clip_x0: bool

    def table(self, process: ForwardProcess, timesteps: Sequence[int]) -> StepTable: ...


def descend(timesteps: Sequence[int], num_steps: int, to_data: bool) -> tuple[Tensor, Tensor]:
    """Pairs (t, p) from the last visited step to the first, and on to clean data (p = −1) if `to_data`. int64 [S]."""
    steps = list(timesteps)
    if not steps or steps != sorted(set(steps)) or steps[0] < 0 or steps[-1] >= num_steps:
        raise ValueError(f"visited steps must be ascending, unique and within 0 ... {num_steps - 1}, got {steps}.")
    path = steps[::-1] + ([-1] if to_data else [])
    if len(path) < 2:
        raise ValueError("one visited step and to_data=false leave nothing to do: visit two steps or set to_data=true.")
    return torch.tensor(path[:-1]), torch.tensor(path[1:])


@dataclass(frozen=True)
class DDIM:
    """Generalised DDIM (Song et al. 2021, Eq. 12): eta = 0 is DDIM, eta = 1 is DDPM's ancestral sampler.

    eta: noise level, ≥ 0.
    sigma: "paper" is Eq. 16 over the visited steps, and needs eta ≤ 1. "adjacent" takes σ from the steps t and t−1
        even where the trajectory skips; where that asks for more variance than 1−ᾱ_p the step is refused.
    to_data: take the last step to clean data (ᾱ_{−1} = 1), as the paper does; False stops at the first visited step.
    clip_x0: clip the predicted x0 to [−1, 1].
    """

    name: ClassVar[str] = "ddim"
    eta: float = 0.0
    sigma: str = "paper"
    to_data: bool = True
    clip_x0: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.eta, bool) or not isinstance(self.eta, (int, float)) or not 0 <= self.eta < float("inf"):
            raise ValueError(f"eta={self.eta!r} is not allowed: eta is a number of at least 0 (0 is DDIM, 1 is DDPM).")
        if self.sigma not in ("paper", "adjacent"):
            raise ValueError(f"solver.sigma={self.sigma!r} is unknown: choose paper or adjacent.")
        if self.sigma == "paper" and self.eta > 1:
            raise ValueError(
                f"eta={self.eta} is not allowed with solver.sigma=paper: above 1 the variance 1-alpha_bar_p-sigma^2 "
                "can go negative; choose eta in [0, 1]."
            )

    def table(self, process: ForwardProcess, timesteps: Sequence[int]) -> StepTable:
        """The table from noise to data over the visited steps (ascending ints)."""
        t, p = descend(timesteps, process.num_steps, self.to_data)
        alpha_bar_t, alpha_bar_p = process.alpha_bar(t), process.alpha_bar(p)
        one_minus_t = process.one_minus_alpha_bar(t)
        if self.sigma == "paper":
            sigma, direction = self._paper_variance(process, t, p)
        else:
            sigma, direction = self._adjacent_variance(process, t, p)
        a = torch.sqrt(direction) / torch.sqrt(one_minus_t)  # Eq. 12, written in x_t and x0 instead of x0 and eps
        b = torch.sqrt(alpha_bar_p) - a * torch.sqrt(alpha_bar_t)
        return StepTable(t, p, torch.sqrt(alpha_bar_t), torch.sqrt(one_minus_t), a, b, sigma, self.clip_x0)

    def _paper_variance(self, process: ForwardProcess, t: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """σ (Eq. 16) and 1−ᾱ_p−σ² in a form that rounding cannot make negative."""
        one_minus_t, one_minus_p = process.one_minus_alpha_bar(t), process.one_minus_alpha_bar(p)
        log_ratio = process.log_alpha_bar(t) - process.log_alpha_bar(p)  # log(ᾱ_t/ᾱ_p)
        sigma = self.eta * torch.sqrt(one_minus_p / one_minus_t) * torch.sqrt(-torch.expm1(log_ratio))
        kept = (1 - self.eta**2) + self.eta**2 * one_minus_p * log_ratio.exp() / one_minus_t
        return sigma, one_minus_p * kept

    def _adjacent_variance(self, process: ForwardProcess, t: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """σ of Eq. 16 with p = t−1 whatever the stride, and 1−ᾱ_p−σ², refused where it is negative."""
        one_minus_t, one_minus_adjacent = process.one_minus_alpha_bar(t), process.one_minus_alpha_bar(t - 1)
        sigma = self.eta * torch.sqrt(one_minus_adjacent / one_minus_t * process.betas[t])
        direction = process.one_minus_alpha_bar(p) - sigma**2
        if bool((direction < 0).any()):
            row = int((direction < 0).nonzero()[0])
            raise ValueError(
                f"solver.sigma=adjacent with eta={self.eta} needs more variance than there is at the step from "
                f"t={int(t[row])} to {int(p[row])} (1-alpha_bar_p-sigma^2 is negative): use solver.sigma=paper, a "
                "smaller eta or a denser schedule."
            )
        return sigma, direction

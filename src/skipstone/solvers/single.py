"""One-step solvers: generalised DDIM and Euler's method on the probability-flow ODE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skipstone.process import ForwardProcess
from skipstone.solvers.table import Path, StepTable, ascend, ddim_row, descend, eps_row, noise_ratio


@dataclass(frozen=True)
class DDIM:
    """Generalised DDIM (Song et al. 2021, Eq. 12): eta = 0 is DDIM, eta = 1 is DDPM's ancestral sampler.

    eta: noise level, ≥ 0.
    sigma: "paper" is Eq. 16 over the visited steps, and needs eta ≤ 1. "adjacent" takes σ from the steps t and t−1
        even where the trajectory skips; where that asks for more variance than 1−ᾱ_p the step is refused. "large" is
        the paper's σ̂ (section 5): DDPM's larger variance 1−ᾱ_t/ᾱ_p, with the rest as for eta = 1, which it needs.
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
        if self.sigma not in ("paper", "adjacent", "large"):
            raise ValueError(f"solver.sigma={self.sigma!r} is unknown: choose paper, adjacent or large.")
        if self.sigma == "large" and self.eta != 1:
            raise ValueError(
                f"eta={self.eta} is not allowed with solver.sigma=large, which is DDPM's: set eta=1.0, "
                "evaluation.etas=[1.0] and evaluation.training.etas=[1.0]."
            )
        if self.sigma == "paper" and self.eta > 1:
            raise ValueError(
                f"eta={self.eta} is not allowed with solver.sigma=paper: above 1 the variance 1-alpha_bar_p-sigma^2 "
                "can go negative; choose eta in [0, 1]."
            )

    def table(self, process: ForwardProcess, timesteps: Sequence[int]) -> StepTable:
        """The table from noise to data over the visited steps (ascending ints)."""
        path = descend(timesteps, process.num_steps, self.to_data)
        alpha_bar_t, alpha_bar_p = process.alpha_bar(path.t), process.alpha_bar(path.p)
        if self.sigma == "adjacent":
            sigma, direction = self._adjacent_variance(process, path.t, path.p)
        else:
            sigma, direction = self._paper_variance(process, path.t, path.p)
        # Eq. 12, written in x_t and x0 instead of x0 and eps
        a = torch.sqrt(direction) / torch.sqrt(process.one_minus_alpha_bar(path.t))
        b = torch.sqrt(alpha_bar_p) - a * torch.sqrt(alpha_bar_t)
        if self.sigma == "large":
            sigma = torch.sqrt(-torch.expm1(process.log_alpha_bar(path.t) - process.log_alpha_bar(path.p)))
            sigma = torch.where(path.p < 0, 0.0, sigma)  # nothing is added to clean data
        return StepTable.build(process, path, a, b, sigma, clip_x0=self.clip_x0)

    def encode_table(self, process: ForwardProcess, timesteps: Sequence[int]) -> StepTable:
        """The table from data to noise by Eq. 13 run upwards; for eta = 0. Starts on clean data if `to_data`."""
        if self.eta != 0:
            raise ValueError(f"eta={self.eta} is not allowed for encoding, which must be deterministic: set eta=0.")
        path = ascend(timesteps, process.num_steps, self.to_data, self.clip_x0)
        return StepTable.build(process, path, *ddim_row(process, path))

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


@dataclass(frozen=True)
class ProbabilityFlow:
    """Euler's method on the probability-flow ODE (Song et al. 2021, Eq. 15), both ways. Rows at clean data are DDIM's.

    to_data, clip_x0: as for DDIM.
    """

    name: ClassVar[str] = "probability_flow"
    to_data: bool = True
    clip_x0: bool = False

    def table(self, process: ForwardProcess, timesteps: Sequence[int]) -> StepTable:
        """The table from noise to data over the visited steps (ascending ints)."""
        path = descend(timesteps, process.num_steps, self.to_data)
        return StepTable.build(process, path, *self._rows(process, path), clip_x0=self.clip_x0)

    def encode_table(self, process: ForwardProcess, timesteps: Sequence[int]) -> StepTable:
        """The table from data to noise. Starts on clean data if `to_data`, else at the first visited step."""
        path = ascend(timesteps, process.num_steps, self.to_data, self.clip_x0)
        return StepTable.build(process, path, *self._rows(process, path))

    def _rows(self, process: ForwardProcess, path: Path) -> tuple[Tensor, Tensor]:
        r_p, r_t = noise_ratio(process, path.p), noise_ratio(process, path.t)
        k = torch.sqrt(process.alpha_bar(path.p)) * 0.5 * (r_p**2 - r_t**2) / r_t  # Eq. 15
        a, b = eps_row(process, path, k)
        a_end, b_end = ddim_row(process, path)
        return torch.where(path.inner, a, a_end), torch.where(path.inner, b, b_end)

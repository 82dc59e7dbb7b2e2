"""One-step solvers: generalised DDIM and Euler's method on the probability-flow ODE."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skipstone.checked import check_fields, checked, is_number
from skipstone.process import ForwardProcess
from skipstone.solvers.table import Path, Steps, StepTable, ascend, ddim_row, descend, eps_row, noise_ratio


@dataclass(frozen=True)
class DDIM:
    """Generalised DDIM (Song et al. 2021). eta = 0 is DDIM, eta = 1 is DDPM's ancestral sampler.

        x_p = √ᾱ_p x0                                    the predicted x0 = (x_t − √(1−ᾱ_t) eps) / √ᾱ_t
            + √(1−ᾱ_p−σ²) eps                            the direction pointing to x_t
            + σ z                                        random noise                                    Eq. 12
        σ   = eta √((1−ᾱ_p)/(1−ᾱ_t)) √(1−ᾱ_t/ᾱ_p)                                                        Eq. 16

    The paper writes α for ᾱ (`alpha_bar`), and t−1 for p, the step that is visited after t. A row of the table is
    written in x_t and x0, so eps = (x_t − √ᾱ_t x0)/√(1−ᾱ_t) is put into Eq. 12. Then x_t and x0 have the weights

        a = √(1−ᾱ_p−σ²) / √(1−ᾱ_t)
        b = √ᾱ_p − a √ᾱ_t

    eta:     noise level, at least 0.
    sigma:   "paper" is Eq. 16 over the visited steps. It needs eta ≤ 1.
             "adjacent" is Eq. 16 with p = t−1, even where the trajectory skips. A step is refused if its σ² is more
             than 1−ᾱ_p.
             "large" is the paper's σ̂ (section 5), DDPM's larger variance 1−ᾱ_t/ᾱ_p. It needs eta = 1, whose a and b
             it keeps.
    to_data: take the last step to clean data (ᾱ_{−1} = 1), as the paper does. False stops at the first visited step.
    clip_x0: clip the predicted x0 to [−1, 1].
    """

    name: ClassVar[str] = "ddim"
    eta: float = 0.0
    sigma: str = "paper"
    to_data: bool = True
    clip_x0: bool = False

    def __post_init__(self) -> None:
        if not is_number(self.eta) or not 0 <= self.eta < float("inf"):
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
        check_fields(self)

    @checked
    def table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from noise to data over the visited steps (ascending)."""
        path = descend(timesteps, process.num_steps, self.to_data)
        signal_t, noise_t = torch.sqrt(process.alpha_bar(path.t)), torch.sqrt(process.one_minus_alpha_bar(path.t))
        signal_p = torch.sqrt(process.alpha_bar(path.p))
        variance = self._adjacent_variance if self.sigma == "adjacent" else self._paper_variance
        sigma, rest = variance(process, path)  # Eq. 16, and 1−ᾱ_p−σ²
        a = torch.sqrt(rest) / noise_t  # the direction pointing to x_t
        b = signal_p - a * signal_t  # the predicted x0, less what a x_t already holds of it
        if self.sigma == "large":
            sigma = self._large_sigma(process, path)
        return StepTable.build(process, path, a, b, sigma, clip_x0=self.clip_x0)

    @checked
    def encode_table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from data to noise: Eq. 13 run upwards, which needs eta = 0.

        It starts on clean data if `to_data`, else at the first visited step.
        """
        if self.eta != 0:
            raise ValueError(f"eta={self.eta} is not allowed for encoding, which must be deterministic: set eta=0.")
        path = ascend(timesteps, process.num_steps, self.to_data, self.clip_x0)
        return StepTable.build(process, path, *ddim_row(process, path))

    def _paper_variance(self, process: ForwardProcess, path: Path) -> tuple[Tensor, Tensor]:
        """σ of Eq. 16, and 1−ᾱ_p−σ² in a form that rounding cannot make negative."""
        one_minus_t, one_minus_p = process.one_minus_alpha_bar(path.t), process.one_minus_alpha_bar(path.p)
        log_ratio = process.log_alpha_bar(path.t) - process.log_alpha_bar(path.p)  # log(ᾱ_t/ᾱ_p)
        sigma = self.eta * torch.sqrt(one_minus_p / one_minus_t) * torch.sqrt(-torch.expm1(log_ratio))  # Eq. 16
        kept = (1 - self.eta**2) + self.eta**2 * one_minus_p * log_ratio.exp() / one_minus_t
        return sigma, one_minus_p * kept

    def _adjacent_variance(self, process: ForwardProcess, path: Path) -> tuple[Tensor, Tensor]:
        """σ of Eq. 16 with p = t−1 whatever the stride, and 1−ᾱ_p−σ², which is refused where it is negative."""
        if path.t.is_floating_point():
            raise ValueError("solver.sigma=adjacent needs integer steps, and these are real: use solver.sigma=paper.")
        one_minus_t, one_minus_adjacent = process.one_minus_alpha_bar(path.t), process.one_minus_alpha_bar(path.t - 1)
        sigma = self.eta * torch.sqrt(one_minus_adjacent / one_minus_t * process.betas[path.t])
        rest = process.one_minus_alpha_bar(path.p) - sigma**2
        if bool((rest < 0).any()):
            row = int((rest < 0).nonzero()[0])
            raise ValueError(
                f"solver.sigma=adjacent with eta={self.eta} needs more variance than there is at the step from "
                f"t={int(path.t[row])} to {int(path.p[row])} (1-alpha_bar_p-sigma^2 is negative): use "
                "solver.sigma=paper, a smaller eta or a denser schedule."
            )
        return sigma, rest

    def _large_sigma(self, process: ForwardProcess, path: Path) -> Tensor:
        """σ̂ = √(1−ᾱ_t/ᾱ_p), and 0 where the row lands on clean data."""
        sigma = torch.sqrt(-torch.expm1(process.log_alpha_bar(path.t) - process.log_alpha_bar(path.p)))
        return torch.where(path.p < 0, 0.0, sigma)


@dataclass(frozen=True)
class ProbabilityFlow:
    """Euler's method on the probability-flow ODE (Song et al. 2021, Eq. 15), both ways.

        x_p/√ᾱ_p = x_t/√ᾱ_t + ½ (r_p² − r_t²)/r_t eps        Eq. 15, with r = √((1−ᾱ)/ᾱ)

    The rows that start or end at clean data are DDIM's, because this step does not land on data.

    to_data, clip_x0: as for DDIM.
    """

    name: ClassVar[str] = "probability_flow"
    to_data: bool = True
    clip_x0: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    @checked
    def table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from noise to data over the visited steps (ascending)."""
        path = descend(timesteps, process.num_steps, self.to_data)
        return StepTable.build(process, path, *self._rows(process, path), clip_x0=self.clip_x0)

    @checked
    def encode_table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from data to noise. It starts on clean data if `to_data`, else at the first visited step."""
        path = ascend(timesteps, process.num_steps, self.to_data, self.clip_x0)
        return StepTable.build(process, path, *self._rows(process, path))

    def _rows(self, process: ForwardProcess, path: Path) -> tuple[Tensor, Tensor]:
        r_p, r_t = noise_ratio(process, path.p), noise_ratio(process, path.t)
        k = torch.sqrt(process.alpha_bar(path.p)) * 0.5 * (r_p**2 - r_t**2) / r_t  # Eq. 15
        a, b = eps_row(process, path, k)
        a_end, b_end = ddim_row(process, path)
        return torch.where(path.inner, a, a_end), torch.where(path.inner, b, b_end)

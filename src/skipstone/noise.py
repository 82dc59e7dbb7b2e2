"""Noise schedules: the variances β_t of the forward process, t = 0 … T−1, as float64 tensors.

Index 0 is the first and smallest noise, where the papers count from 1. Each function is a `_target_` of conf/noise and
raises ValueError for what it cannot take.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skipstone.checked import checked, require_length

_LARGEST = 0.999  # of a rescaled β, as `cosine` has it


def _require_range(beta_1: float, beta_T: float) -> None:
    if not 0 < beta_1 <= beta_T < 1:
        raise ValueError(f"noise.beta_1={beta_1} and noise.beta_T={beta_T} must satisfy 0 < beta_1 <= beta_T < 1.")


def _rescaled(betas: Tensor, rescale: bool) -> Tensor:
    """β · 1000/T, below 1, so that the process ends in as much noise as with 1000 steps, whatever T is."""
    return (betas * (1000 / len(betas))).clamp(max=_LARGEST) if rescale else betas


@checked
def linear(num_steps: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02, rescale: bool = False) -> Tensor:
    """β rises linearly from beta_1 to beta_T (Ho et al. 2020, section 4). Returns float64 [T].

    rescale: multiply β by 1000/T, as improved-diffusion does (Nichol & Dhariwal 2021, their released code). The β
             above are for T = 1000: with fewer steps and without rescaling the process ends short of pure noise.
    """
    require_length("noise.num_steps", num_steps)
    _require_range(beta_1, beta_T)
    return _rescaled(torch.linspace(beta_1, beta_T, num_steps, dtype=torch.float64), rescale)


@checked
def scaled_linear(
    num_steps: int = 1000, beta_1: float = 8.5e-4, beta_T: float = 0.012, rescale: bool = False
) -> Tensor:
    """√β rises linearly from √beta_1 to √beta_T (Rombach et al. 2022, their released code). Returns float64 [T].

    rescale: as for `linear`.
    """
    require_length("noise.num_steps", num_steps)
    _require_range(beta_1, beta_T)
    roots = torch.linspace(math.sqrt(beta_1), math.sqrt(beta_T), num_steps, dtype=torch.float64)
    return _rescaled(roots**2, rescale)


@checked
def given(betas: Sequence[float]) -> Tensor:
    """These β, such as those that came with a network from elsewhere. Returns float64 [T]."""
    return torch.tensor(list(betas), dtype=torch.float64)


@checked
def cosine(num_steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Tensor:
    """ᾱ falls as a squared cosine (Nichol & Dhariwal 2021, Eq. 17). Returns float64 [T].

    offset: the paper's s, at least 0: it keeps the first β from being too small.
    beta_max: the largest β, in (0, 1). Without it the last β would be 1.
    """
    require_length("noise.num_steps", num_steps)
    if not 0 < beta_max < 1 or not 0 <= offset < math.inf:
        raise ValueError(
            f"noise.beta_max={beta_max} must lie in (0, 1) and noise.offset={offset} must be at least 0, and finite."
        )
    u = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=beta_max)

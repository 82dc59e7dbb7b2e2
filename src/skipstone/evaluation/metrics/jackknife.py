"""The delete-a-group jackknife: how much a number of n samples would differ from one set of samples to the next.

The number is computed again without each of G groups of samples; a plain bootstrap would repeat samples, which biases a
Fréchet distance. Sample k is in the same group in every cell. So two cells that share their start noise are compared
by the replicates of their difference, in which much of the noise cancels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

GROUPS = 20


def kept(n: int) -> Tensor:
    """Which samples each replicate keeps: bool [min(GROUPS, n), n]; none for fewer than 2 samples."""
    groups = min(GROUPS, n) if n > 1 else 0
    return torch.arange(n) % max(1, groups) != torch.arange(groups)[:, None]


def spread(replicates: Sequence[float]) -> float | None:
    """Standard deviation from replicates, √((G−1)/G Σ (replicate − mean)²) (Shao & Tu 1995); None without any."""
    groups = len(replicates)
    if groups < 2:
        return None
    mean = sum(replicates) / groups
    return math.sqrt((groups - 1) / groups * sum((replicate - mean) ** 2 for replicate in replicates))

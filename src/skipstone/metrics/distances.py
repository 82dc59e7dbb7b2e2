"""Distances between two sets of features, computed by torchmetrics in float64.

torchmetrics couples a distance to a feature extractor; ours have extracted already, so it is given the identity.
Where several processes train, only one of them samples and measures, so the metrics are not to wait for the others.
"""

import warnings

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from skipstone import philox
from skipstone.philox import Stream


def frechet(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets (Heusel et al. 2017). float64 [N, d] each, N ≥ 2."""
    identity = nn.Identity()
    identity.num_features = real.shape[1]
    metric = FrechetInceptionDistance(feature=identity, sync_on_compute=False)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


def kernel(real: Tensor, fake: Tensor, subsets: int, subset_size: int, seed: int = 0) -> tuple[float, float]:
    """Unbiased kernel distance (Bińkowski et al. 2018) and its spread over random subsets. float64 [N, d] each.

    subset_size is lowered to the smaller set's size. The subsets are a function of `seed`; the global generator,
    from which torchmetrics draws them, is left as it was.
    """
    size = min(subset_size, len(real), len(fake))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save")
        torch.default_generator.manual_seed(philox.fold(seed, Stream.SUBSETS, 0))
        metric = KernelInceptionDistance(
            feature=nn.Identity(), subsets=subsets, subset_size=size, sync_on_compute=False
        )
        metric.update(real, real=True)
        metric.update(fake, real=False)
        mean, spread = metric.compute()
    return float(mean), float(spread)

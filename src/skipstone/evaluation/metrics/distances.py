"""Distances between two sets of features, computed by torchmetrics in float64.

torchmetrics couples a distance to a feature extractor; ours have extracted already, so it is given the identity.
Where several processes train, only one of them samples and measures, so the metrics are not to wait for the others.
It is imported where it computes: that takes a second, and a refusal is not to wait for it.
"""

import warnings

import torch
from torch import Tensor, nn

from skipstone import rng
from skipstone.rng import Stream

_SIZES = 15


def frechet(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets (Heusel et al. 2017). float64 [N, d] each, N ≥ 2."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    identity = nn.Identity()
    identity.num_features = real.shape[1]
    metric = FrechetInceptionDistance(feature=identity, sync_on_compute=False)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


def fewest_to_extrapolate(num_features: int) -> int:
    """How many images `extrapolated` needs."""
    return 3 * num_features


def extrapolated(real: Tensor, fake: Tensor, seed: int = 0) -> float:
    """The Fréchet distance for infinitely many fake images (Chong & Forsyth 2020). float64 [N, d] each.

    A Fréchet distance of n images is biased by about c/n. So it is taken of random subsets of 15 evenly spaced sizes
    and fitted by a + b/n in least squares; a is returned. Sizes go from 2 d, where the bias has become linear in 1/n,
    or a tenth of the images, up to all of them. `real` stays whole, and what its own number adds remains. It is an
    estimate and may be below 0. Raises ValueError for fewer than 3 d fake images.
    """
    n, d = fake.shape
    if n < fewest_to_extrapolate(d):
        raise ValueError(
            f"{n} images are too few to extrapolate a Fréchet distance on {d} features: at least "
            f"{fewest_to_extrapolate(d)} are needed."
        )
    generator = torch.Generator().manual_seed(rng.fold(seed, Stream.SUBSETS, 1))
    sizes = torch.linspace(max(2 * d, n // 10), n, _SIZES, dtype=torch.float64).round().long().tolist()
    distances = [frechet(real, fake[torch.randperm(n, generator=generator)[:size]]) for size in sizes]
    design = torch.tensor([[1.0, 1.0 / size] for size in sizes], dtype=torch.float64)
    return float(torch.linalg.lstsq(design, torch.tensor(distances, dtype=torch.float64)).solution[0])


def kernel(real: Tensor, fake: Tensor, subsets: int, subset_size: int, seed: int = 0) -> tuple[float, float]:
    """Unbiased kernel distance (Bińkowski et al. 2018) and its spread over random subsets. float64 [N, d] each.

    subset_size is lowered to the smaller set's size. The subsets are a function of `seed`; the global generator,
    from which torchmetrics draws them, is left as it was.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(subset_size, len(real), len(fake))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save")
        torch.default_generator.manual_seed(rng.fold(seed, Stream.SUBSETS, 0))
        metric = KernelInceptionDistance(
            feature=nn.Identity(), subsets=subsets, subset_size=size, sync_on_compute=False
        )
        metric.update(real, real=True)
        metric.update(fake, real=False)
        mean, spread = metric.compute()
    return float(mean), float(spread)

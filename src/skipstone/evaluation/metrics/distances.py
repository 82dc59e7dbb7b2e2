"""Distances between two sets of features, computed by torchmetrics in float64, and their jackknife replicates.

torchmetrics couples a distance to a feature extractor; ours have extracted already, so it is given the identity.
Where several processes train, only one of them samples and measures, so the metrics are not to wait for the others.
It is imported where it computes: that takes a second, and a refusal is not to wait for it.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from skipstone import rng
from skipstone.evaluation.metrics import jackknife
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


def frechet_replicates(real: Tensor, fake: Tensor) -> list[float]:
    """`frechet` without each group of fake images (jackknife.kept). float64 [N, d] each."""
    return frechet_to(real.mean(dim=0), torch.cov(real.T), [fake[some] for some in jackknife.kept(len(fake))])


def frechet_to(mean: Tensor, covariance: Tensor, fakes: Sequence[Tensor]) -> list[float]:
    """The Fréchet distance of each set of features to one Gaussian. float64 [d], [d, d], [N, d] each.

    tr √(Σ₁Σ₂) is the sum of the roots of the eigenvalues of √Σ₁ Σ₂ √Σ₁, which is symmetric: twenty of these cost less
    than the one general product that torchmetrics takes.
    """
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    distances = []
    for fake in fakes:
        own = torch.cov(fake.T)
        roots = torch.linalg.eigvalsh(root @ own @ root).clamp(min=0).sqrt()
        apart = (mean - fake.mean(dim=0)).square().sum()
        distances.append(float(apart + covariance.trace() + own.trace() - 2 * roots.sum()))
    return distances


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
    """Unbiased kernel distance (Bińkowski et al. 2018) and its deviation over random subsets. float64 [N, d] each.

    subset_size is lowered to the smaller set's size. The subsets are a function of `seed`; the global generator,
    from which torchmetrics draws them, is left as it was. Subsets overlap, so their deviation is not the spread of the
    distance: see `kernel_replicates`.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(subset_size, len(real), len(fake))
    with warnings.catch_warnings(), _subsets_of(seed):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save")
        metric = KernelInceptionDistance(
            feature=nn.Identity(), subsets=subsets, subset_size=size, sync_on_compute=False
        )
        metric.update(real, real=True)
        metric.update(fake, real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def kernel_replicates(real: Tensor, fake: Tensor, subsets: int, subset_size: int, seed: int = 0) -> list[float]:
    """`kernel` on the same subsets, without each group of fake images (jackknife.kept). float64 [N, d] each.

    A group that leaves a subset fewer than two images leaves that subset out.
    """
    size = min(subset_size, len(real), len(fake))
    kept, found = jackknife.kept(len(fake)).double(), []
    with _subsets_of(seed):
        draws = [[torch.randperm(len(x))[:size] for x in (real, fake)] for _ in range(subsets)]
    for chosen, own in draws:
        x, y, w = real[chosen], fake[own], kept[:, own]  # w: which of the subset each replicate keeps [G, size]
        n = w.sum(dim=1)
        among_real, across, among_fake = _cubic(x, x), _cubic(y, x), _cubic(y, y).fill_diagonal_(0)
        real_pairs = (among_real.sum() - among_real.trace()) / (size * (size - 1))
        fake_pairs = ((w @ among_fake) * w).sum(dim=1) / (n * (n - 1))
        found.append((real_pairs + fake_pairs - 2 * (w @ across).sum(dim=1) / (n * size)).where(n > 1, torch.nan))
    return torch.stack(found).nanmean(dim=0).tolist()


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    """The kernel (x·y / d + 1)³ of each pair."""
    return (x @ y.T / x.shape[1] + 1) ** 3


@contextmanager
def _subsets_of(seed: int) -> Iterator[None]:
    """The global generator at the start of a seed's subsets; afterwards it is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.fold(seed, Stream.SUBSETS, 0))
        yield

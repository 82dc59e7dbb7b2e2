"""fd_random and kid_random of a set of samples, each beside its floor."""

import copy

import torch
from torch import Tensor

from skipstone.data import ImageSet
from skipstone.metrics.distances import frechet, kernel
from skipstone.metrics.features import RandomFeatures

_LARGEST_REFERENCE = 10_000


class Proxies:
    """Distances of n samples to the training images, and of n held-out real images to the same: the floor.

    A model cannot honestly do better than the floor at the same n: it is what real images that nobody trained on
    score. Below it, suspect memorised training images.

    images: the data set.  n: how many images are compared, at most len(images.held_out).  features: of the random
    network.  subsets, subset_size: over which the kernel distance is averaged.
    """

    def __init__(self, images: ImageSet, n: int, features: int = 64, subsets: int = 20, subset_size: int = 100) -> None:
        self.subsets, self.subset_size = subsets, subset_size
        self.extractor = RandomFeatures(images.shape[0], features)
        self.reference = self.extractor(_pick(images.train, min(_LARGEST_REFERENCE, len(images.train))))
        self.held_out = images.held_out
        self._floors_at(n)

    def at(self, n: int) -> "Proxies":
        """The same, of n images."""
        other = copy.copy(self)
        other._floors_at(n)
        return other

    def _floors_at(self, n: int) -> None:
        if not 2 <= n <= len(self.held_out):
            raise ValueError(
                f"{n} images cannot be compared: each distance is shown beside that of as many held-out real images, "
                f"of which there are {len(self.held_out)}, and at least 2 are needed; hold out more (dataset.held_out)."
            )
        self.n = n
        floors = self._distances(self.extractor(_pick(self.held_out, n)))
        self.floors = {f"{name}_floor": floors[name] for name in ("fd_random", "kid_random")}

    def __call__(self, samples: Tensor) -> dict[str, float]:
        """uint8 [n, C, H, W] → fd_random, kid_random and its spread, and the floors."""
        if len(samples) != self.n:
            raise ValueError(f"{len(samples)} samples cannot be held against a floor of {self.n} real images.")
        return {**self._distances(self.extractor(samples)), **self.floors}

    def _distances(self, features: Tensor) -> dict[str, float]:
        mean, spread = kernel(self.reference, features, self.subsets, self.subset_size)
        return {"fd_random": frechet(self.reference, features), "kid_random": mean, "kid_random_std": spread}


def _pick(images: Tensor, n: int) -> Tensor:
    """n images by a fixed shuffle: files are often sorted by class."""
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(1))[:n]]

"""Graded damage to real images: what a distance between image sets ought to notice, and what it cannot.

Level 0 leaves the images as they are. Whatever is drawn is a function of `seed`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from skipstone.data import ImageSet, to_bytes, to_unit


@dataclass(frozen=True)
class Corruption:
    """A kind of damage: held-out images of a data set, n of them drawn by `seed`, at each of its levels.

    says: the unit of its levels.
    """

    name: str
    says: str
    levels: tuple[float, ...]
    at: Callable[[ImageSet, int, float, int], Tensor]


def require_labels(images: ImageSet) -> None:
    """Raise ValueError for a data set without labels, whose modes cannot be dropped."""
    if images.held_out_labels is None:
        raise ValueError(f"dataset={images.name} has no labels, and dropping modes needs them: choose one that has.")


def _draw(images: Tensor, n: int, seed: int) -> Tensor:
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n]]


def _noise(images: ImageSet, n: int, level: float, seed: int) -> Tensor:
    x = to_unit(_draw(images.held_out, n, seed))
    return to_bytes(x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))


def _blur(images: ImageSet, n: int, level: float, seed: int) -> Tensor:
    x = _draw(images.held_out, n, seed)
    return to_bytes(gaussian_blur(to_unit(x), [9, 9], [level, level])) if level else x


def _dropped(images: ImageSet, n: int, level: float, seed: int) -> Tensor:
    """Images of all classes but the first `level`; drawn again where the others have too few."""
    require_labels(images)
    kept = _draw(images.held_out[images.held_out_labels >= level], n, seed)
    return kept[torch.arange(n) % len(kept)]


def _repeated(images: ImageSet, n: int, level: float, seed: int) -> Tensor:
    """A share `level` of the images repeats the others."""
    fewer = max(1, round(n * (1 - level)))
    return _draw(images.held_out, fewer, seed)[torch.arange(n) % fewer]


def _memorised(images: ImageSet, n: int, level: float, seed: int) -> Tensor:
    """A share `level` of the images is copied from the training images."""
    copies = _draw(images.train, round(n * level), seed)
    return torch.cat([copies, _draw(images.held_out, n - len(copies), seed)])


CORRUPTIONS = (
    Corruption("noise", "standard deviation, pixels in [-1, 1]", (0.0, 0.05, 0.1, 0.2, 0.4, 0.8), _noise),
    Corruption("blur", "standard deviation, pixels", (0.0, 0.4, 0.6, 0.8, 1.2, 2.0), _blur),
    Corruption("dropped modes", "classes left out", (0, 1, 2, 4, 6, 8), _dropped),
    Corruption("repeats", "share of images that repeat others", (0.0, 0.5, 0.75, 0.9, 0.95, 0.98), _repeated),
    Corruption("memorised", "share of images copied from training", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), _memorised),
)

"""Are samples memorised training images? Their nearest neighbours in pixels, beside those of unseen real images."""

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from skipstone.data import ImageSet, pick, to_unit
from skipstone.evaluation.metrics.features import require_bytes

_BLOCK = 4096
_LARGEST_YARDSTICK = 1000
_NEAR = 0.01


class Memorisation(NamedTuple):
    """How near samples come to training images, beside how near unseen real images do.

    samples, held_out: median RMS distance in the [−1, 1] scale of a sample, and of a held-out image, to its nearest
    training image.  too_near: the fraction of samples that lie no farther from a training image than the nearest 1 % of
    held-out images do. About 0.01 is what real images nobody trained on score, 1 is a model that repeats its data.
    Pixels are easily pleased: smooth or blurred samples come near, too, so look at the pairs.
    """

    samples: float
    held_out: float
    too_near: float


def nearest(samples: Tensor, train: Tensor, k: int = 1, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """The k training images nearest to each sample, nearest first.

    samples, train: uint8 [N, C, H, W] and [M, C, H, W], compared on `device`. Returns indices into train, int64 [N, k],
    and RMS pixel distances in the [−1, 1] scale, float32 [N, k], on the CPU. A copy has the distance 0. Raises
    ValueError for images of another shape, for others than bytes, and for k > M.
    """
    require_bytes(samples)
    require_bytes(train)
    if samples.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"samples of shape {list(samples.shape[1:])} have no neighbours among images of {list(train.shape[1:])}."
        )
    if not 1 <= k <= len(train):
        raise ValueError(f"k={k} neighbours cannot be found among {len(train)} training images.")
    x = to_unit(samples.to(device)).flatten(1)
    distances = torch.empty(len(x), 0, device=device)
    indices = torch.empty(len(x), 0, dtype=torch.long, device=device)
    for start in range(0, len(train), _BLOCK):
        block = to_unit(train[start : start + _BLOCK].to(device)).flatten(1)
        near, place = torch.cdist(x, block).topk(min(k, len(block)), largest=False)
        distances, indices = torch.cat([distances, near], 1), torch.cat([indices, place + start], 1)
        distances, order = distances.topk(min(k, distances.shape[1]), largest=False)
        indices = indices.gather(1, order)
    # cdist multiplies matrices, which leaves a copy at some 1e-4: the few that count are measured again
    exact = [(x - to_unit(train[column].to(device)).flatten(1)).square().mean(1).sqrt() for column in indices.T.cpu()]
    distances, order = torch.stack(exact, 1).sort(dim=1, stable=True)
    return indices.gather(1, order).cpu(), distances.cpu()


class MemoryCheck:
    """Compares samples with what the network was shown. images: the yardstick is up to 1,000 of its held-out ones.

    device: where distances are computed.
    """

    def __init__(self, images: ImageSet, device: str | torch.device = "cpu") -> None:
        self._train, self._held_out, self._device = images.seen, images.held_out, device

    def __call__(self, samples: Tensor) -> Memorisation:
        """uint8 [N, C, H, W] → how near they come."""
        ours, theirs = self._distances(samples), self._yardstick
        too_near = (ours <= theirs.quantile(_NEAR)).double().mean()
        return Memorisation(float(ours.median()), float(theirs.median()), float(too_near))

    @cached_property
    def _yardstick(self) -> Tensor:
        return self._distances(pick(self._held_out, _LARGEST_YARDSTICK))

    def _distances(self, images: Tensor) -> Tensor:
        return nearest(images, self._train, device=self._device)[1][:, 0].double()

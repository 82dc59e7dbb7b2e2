"""Checkpoint files: how they are written, which one a training resumes from, and which are refused.

    last.ckpt  previous.ckpt

They hold plain containers and tensors and are read as such: what asks for code to be run is not opened.
"""

import io
import logging
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from skipstone import durable

log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
CURVE, MODEL = "curve", "model"  # what we add to Lightning's entries


class DurableIO(TorchCheckpointIO):
    """Writes a checkpoint to the disk before it takes the place of the one before, which stays as previous.ckpt."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path, buffer = Path(path), io.BytesIO()
        torch.save(checkpoint, buffer)  # in memory, for torch's own writer hides the reason when a disk is full
        with durable.replacing(path, previous=path.with_name(PREVIOUS)) as temporary:
            temporary.write_bytes(buffer.getbuffer())


def latest(folder: Path, model: str) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of the training in `folder`, and what it holds; None if there is none at all.

    A damaged one is passed over, with a warning, and removed. Raises ValueError if all are damaged, and for a
    checkpoint of another model, of another version, or with code in it, and for a folder in its place.
    """
    for path in (folder / LAST, folder / PREVIOUS):
        if path.is_dir():
            raise ValueError(f"{path} is a folder, and a checkpoint belongs there: remove it to go on.")
    there = [path for path in (folder / LAST, folder / PREVIOUS) if path.is_file()]
    for i, path in enumerate(there):
        past = _read(path)
        if past is None:
            continue
        if not {CURVE, MODEL, "state_dict", "loops", "global_step"} <= set(past):
            raise ValueError(f"{path} is of another version: remove it to train from the start.")
        if past[MODEL] != model:
            raise ValueError(f"{path} is of another model, {past[MODEL]}: remove it to train {model} from the start.")
        for damaged in there[:i]:
            log.warning("%s is damaged, so the training goes on from %s", damaged, path)
            damaged.unlink()
        return path, past
    if there:
        names = " and ".join(map(str, there))
        raise ValueError(
            f"{names} cannot be read: remove {'it' if len(there) == 1 else 'them'} to train from the start."
        )
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a checkpoint, or None if the file is damaged. Raises ValueError if it has code in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch does not look at the checksums that it writes
                return None
        past = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not opened, for it holds more than numbers: code that it asks for would be run. Remove it to "
            "train from the start."
        ) from error
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, RuntimeError, ValueError, TypeError):
        return None
    return past if isinstance(past, dict) else None

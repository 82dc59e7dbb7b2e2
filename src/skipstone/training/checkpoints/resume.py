"""Checkpoint files: which one a training resumes from, and which are passed over or refused.

    last.ckpt  previous.ckpt  damaged-<when it was written>.ckpt

They hold plain containers and tensors and are read as such: what asks for code to be run is not opened. Lightning is
not imported here, so that what is refused is refused before.
"""

import logging
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
CURVE, MODEL = "curve", "model"  # what we add to Lightning's entries
_RAW = "current_model_state"  # beside the averaged weights, the ones that are trained


class Checkpoint(NamedTuple):
    """A file to go on from, and what must be known of it before: how many steps it is of, and their losses."""

    path: Path
    step: int
    curve: list[dict[str, Any]]


def latest(folder: Path, model: str, net: nn.Module) -> Checkpoint | None:
    """The newest whole checkpoint of the training of `net` in `folder`; None where there is none.

    One that is damaged, or holds other things than this network's training writes, is passed over, with a warning, and
    set aside: it may be good for all that, where memory was short. Raises ValueError if all are so, and for a
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
        if not _fits(past, net):
            continue
        for damaged in there[:i]:
            _set_aside(damaged, path)
        return Checkpoint(path, past["global_step"], past[CURVE])
    if there:
        names = " and ".join(map(str, there))
        raise ValueError(
            f"{names} cannot be resumed from, damaged or of another network: move {'it' if len(there) == 1 else 'them'}"
            " away to train from the start."
        )
    return None


def _set_aside(damaged: Path, path: Path) -> None:
    kept = damaged.with_name(f"damaged-{damaged.stat().st_mtime_ns}.ckpt")
    log.warning(
        "%s cannot be resumed from, so it is now %s, and the training goes on from %s", damaged, kept.name, path
    )
    damaged.rename(kept)


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


def _fits(past: dict[str, Any], net: nn.Module) -> bool:
    """Whether our own entries, the weights and the optimiser's state are such as this network's training writes.

    What else there is belongs to Lightning, which restores it or says why it does not.
    """
    weights = {f"net.{name}": _form(tensor) for name, tensor in net.state_dict().items()}
    step = _form(torch.tensor(0.0))
    moments = [
        ({"step": step, "exp_avg": _form(p), "exp_avg_sq": _form(p)}, {"step": step, "momentum": _form(p)})
        for p in net.parameters()
    ]  # AdamW's and Muon's
    try:
        ours = type(past["global_step"]) is int and past["global_step"] >= 0
        ours &= all(isinstance(number, (int, float, type(None))) for row in past[CURVE] for number in row.values())
        past["loops"]["fit_loop"], past["optimizer_states"][0]
        states = [state for optimizer in past["optimizer_states"] for state in optimizer["state"].items()]
        optimizers = all(_form(state) in moments[i] for i, state in states)
        return (
            ours and optimizers and all(_form(past[name]) == weights for name in ("state_dict", _RAW) if name in past)
        )
    except (AttributeError, LookupError, TypeError):
        return False


def _form(node: Any) -> Any:
    """What an entry is like, whatever its numbers: sizes and types of the tensors in it."""
    if isinstance(node, dict):
        return {name: _form(child) for name, child in node.items()}
    return (node.shape, node.dtype) if isinstance(node, Tensor) else type(node)

"""The model store: one folder per trained model, named by its key.

    <outputs>/models/<key>/   config.yaml  last.ckpt  previous.ckpt  ema.safetensors  metrics.csv  DONE

DONE is written last; a folder without it is a training to be resumed. While <key>.lock lies beside the folder, a
process trains there and others wait for it.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from torch import nn

from skipstone.checked import checked
from skipstone.process import ForwardProcess
from skipstone.store import files, locks, tensors
from skipstone.store.key import FORMAT, model_key

log = logging.getLogger(__name__)

_WEIGHTS, _CONFIG, _DONE = "ema.safetensors", "config.yaml", "DONE"
_MODEL = "model"  # in the metadata of the weights, the model's key
_DAMAGED = "is damaged or of another network: train the model anew with fresh=true."
_FRESH, _OLD = ".fresh", ".old"  # added to a key: a model that is trained anew, one that is being replaced

# What `load` builds from a config.yaml, which may come from anywhere.
_BUILDABLE = (
    "skipstone.UNet", "skipstone.VelocityUNet",
    "skipstone.noise.linear", "skipstone.noise.cosine", "skipstone.noise.scaled_linear",
)  # fmt: skip


def key_of(folder: Path) -> str:
    """Of the model that is trained in `folder`, whether for the first time or anew."""
    return folder.name.removesuffix(_FRESH)


class ModelStore:
    """The models below `<outputs>/models`."""

    def __init__(self, outputs: str | Path) -> None:
        self.root = Path(outputs) / "models"

    def folder(self, key: str) -> Path:
        """Where the model of this key lives, whether it exists or not."""
        return self.root / key

    def finished(self, key: str) -> bool:
        """Whether that model is trained."""
        return (self.folder(key) / _DONE).is_file()

    def finished_at(self, key: str) -> int | None:
        """When it was, in nanoseconds since the epoch; None if it is not."""
        try:
            return (self.folder(key) / _DONE).stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None

    def keys(self) -> list[str]:
        """Of all finished models."""
        there = (path.parent for path in self.root.glob(f"*/{_DONE}"))
        return sorted(folder.name for folder in there if folder.suffix not in (_FRESH, _OLD))

    def ensure(
        self,
        weights: dict[str, Any],
        train: Callable[[Path], nn.Module],
        fresh: bool = False,
        renewed: Path | None = None,
    ) -> Path:
        """The folder of the finished model, trained now if it is not there, or if `fresh`.

        train(folder) trains into a folder that may hold a checkpoint to resume from, and returns the network with
        the weights to store. A fresh training replaces the old model only when it is done; one that was cut off is
        resumed by the next fresh one. A model is trained by one process at a time: others wait, and take what it
        leaves, also if they want it fresh.

        renewed: a file that `fresh` makes, and where it is there no fresh model is wanted any more.
        """
        key = model_key(weights)
        final, before = self.folder(key), self.finished_at(key)

        def wanted() -> bool:
            renew = fresh and not (renewed is not None and renewed.exists())
            return not self.finished(key) or (renew and self.finished_at(key) == before)

        if not wanted() and not self._half_replaced(key):
            return final
        folder = self.root / f"{key}{_FRESH}" if fresh else final
        self.root.mkdir(parents=True, exist_ok=True)
        with locks.held(self.root / f"{key}.lock", f"the training of {final}", folder / _CONFIG):
            self._adopt(key)
            list(self.root.glob(f"{key}*/*"))  # NFS may remember what was not there until a folder is read again
            if wanted():
                self._train(weights, train, folder)
                self._adopt(key)
            if fresh and renewed is not None:
                renewed.touch()
        return final

    def _train(self, weights: dict[str, Any], train: Callable[[Path], nn.Module], folder: Path) -> None:
        """Train into `folder`, which is finished once DONE is in it."""
        self._say_what_changed(weights)
        folder.mkdir(exist_ok=True)
        files.remove_temporary(folder)
        with files.replacing(folder / _CONFIG) as path:
            OmegaConf.save(OmegaConf.create(weights), path)
        key = model_key(weights)
        save_weights(train(folder), weights_of(folder), key)
        files.write(folder / _DONE, f"{key}\n".encode())

    def _half_replaced(self, key: str) -> bool:
        """Whether a process was killed, or is just now, between finishing a fresh model and having it in its place."""
        final, fresh, old = (self.root / f"{key}{suffix}" for suffix in ("", _FRESH, _OLD))
        return (fresh / _DONE).is_file() or (old.exists() and not final.exists())

    def _adopt(self, key: str) -> None:
        """Let a finished fresh model take its place, and finish what a killed process began of this."""
        final, fresh, old = (self.root / f"{key}{suffix}" for suffix in ("", _FRESH, _OLD))
        if (fresh / _DONE).is_file():
            if final.exists():
                shutil.rmtree(old, ignore_errors=True)
                final.rename(old)
            fresh.rename(final)
        shutil.rmtree(old, ignore_errors=True)

    def _say_what_changed(self, weights: dict[str, Any]) -> None:
        """Warn where a model of the same settings was trained on other images under the same name."""
        for path in sorted(self.root.glob(f"{weights['dataset']['name']}-*/{_CONFIG}")):
            try:
                other = files.read_yaml(path)
                fingerprint = other["dataset"]["fingerprint"]
            except (OSError, ValueError, LookupError, TypeError):
                continue  # no model of ours; it is not what was asked for
            same = {**other, "dataset": {**other["dataset"], "fingerprint": weights["dataset"]["fingerprint"]}}
            if same == weights and fingerprint != weights["dataset"]["fingerprint"]:
                state = "was" if (path.parent / _DONE).is_file() else "is half"
                log.warning(
                    "the images of dataset %s have changed since %s %s trained on them, so a new model is trained; "
                    "the old one stays as it is",
                    weights["dataset"]["name"], path.parent, state,
                )  # fmt: skip


def weights_of(folder: Path) -> Path:
    """The file with the weights of the model in `folder`."""
    return folder / _WEIGHTS


def save_weights(net: nn.Module, path: Path, key: str) -> None:
    """Write a network's weights, and whose they are."""
    tensors.write(net.state_dict(), path, {_MODEL: key})


def load_weights(net: nn.Module, folder: Path, key: str) -> None:
    """Give a network the weights of the finished model `key` in `folder`. Raises ValueError if they are not there."""
    path = weights_of(folder)
    with _weights_or_sentence(path):
        kept = tensors.read(path, before=frozenset({_MODEL}))
    _require_own(kept.about.get(_MODEL), folder, key)
    with _weights_or_sentence(path):
        net.load_state_dict(kept.tensors)


def _require_fit(config: dict[str, Any], folder: Path) -> None:
    """Raise ValueError unless the weights in `folder` are of the network that this config describes.

    It is found out before anything is built, because a config from elsewhere may describe one of any size.
    """
    path, key = weights_of(folder), model_key(config)
    with _weights_or_sentence(path):
        there, of = tensors.header(path)
    _require_own(of.get(_MODEL), folder, key)
    model = {name: instantiate(value) if isinstance(value, dict) else value for name, value in config["model"].items()}
    target, blocks = model.pop("_target_"), model.get("blocks", 1) * len(model.get("multipliers", ()))
    if blocks <= len(there):  # each block has several tensors; a network without weights costs time all the same
        with torch.device("meta"):
            described = get_object(target)(**model).state_dict()
    if blocks > len(there) or there != {name: (tuple(x.shape), x.dtype) for name, x in described.items()}:
        raise ValueError(f"{path} {_DAMAGED}")


@contextmanager
def _weights_or_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} {_DAMAGED}") from error


def _require_own(of: str | None, folder: Path, key: str) -> None:
    """Raise ValueError unless the weights in `folder`, which say that they are `of` a model, are of `key`.

    Where they do not say, as a very early version left it, the config.yaml beside them must be the folder's own.
    """
    if of is None and model_key(read_config(folder)) == key == key_of(folder):
        _note_unnamed(weights_of(folder))
    elif of != key:
        raise ValueError(
            f"{weights_of(folder)} is of another model, {of or 'which it does not name'}, than {folder / _CONFIG}, "
            f"which is of {key}: put the right file there, or train the model anew with fresh=true."
        )


@cache
def _note_unnamed(path: Path) -> None:
    """Once a file."""
    log.warning("%s does not name its model: it is taken for the one of the config.yaml beside it", path)


def read_config(folder: Path) -> dict[str, Any]:
    """What `weights_config` said of the model in `folder`, as plain containers.

    Raises ValueError if that cannot be read, is of another version, or asks for more than numbers and what we build.
    """
    path = folder / _CONFIG
    try:
        config = files.read_yaml(path)
        ours = "name" in config["dataset"] and all(isinstance(config[part], dict) for part in ("model", "noise"))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged or absent: train the model anew with fresh=true.") from error
    if not ours or config.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{path} is of another version: train the model anew with fresh=true.")
    _require_plain(config, path)
    return config


@checked
def load(folder: str | Path) -> tuple[nn.Module, ForwardProcess]:
    """The EMA network of a finished model, in eval mode on the CPU, and its forward process.

    folder: outputs/models/<key>. Raises FileNotFoundError if it is no finished model, ValueError if its files do not
    belong together or ask for code from outside this package.
    """
    folder = Path(folder)
    if not (folder / _DONE).is_file():
        raise FileNotFoundError(
            f"{folder} holds no finished model: give a folder outputs/models/<key> with a DONE file."
        )
    config = read_config(folder)
    try:
        _require_fit(config, folder)
        net = instantiate(config["model"])
        process = ForwardProcess(instantiate(config["noise"]))
    except (HydraException, RuntimeError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(
            f"{folder / _CONFIG} describes no network of this version ({error.__cause__ or error}): train the model "
            "anew with fresh=true."
        ) from error
    load_weights(net, folder, model_key(config))
    return net.to(memory_format=torch.channels_last).eval(), process


def _require_plain(node: Any, path: Path) -> None:
    """A config names what is built from it; one that came with a foreign model must not name any callable it likes.

    Nor is anything in it looked up elsewhere: what we write has no interpolation left.
    """
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and target not in _BUILDABLE:
            raise ValueError(
                f"{path} asks for {target}, which skipstone.load does not build: build the network yourself and load "
                f"{_WEIGHTS} into it."
            )
        for name in node:
            if str(name).startswith("_") and name != "_target_":
                raise ValueError(f"{path} has the key {name}, which is not followed: remove it.")
    if isinstance(node, str) and "${" in node:
        raise ValueError(f"{path} refers to {node}, which is not looked up: write the value itself there.")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _require_plain(child, path)

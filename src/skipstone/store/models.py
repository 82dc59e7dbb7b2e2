"""The model store: one folder per trained model, named by its key.

    <outputs>/models/<key>/   config.yaml  last.ckpt  previous.ckpt  ema.safetensors  metrics.csv  DONE

DONE is written last; a folder without it is a training to be resumed. While <key>.lock lies beside the folder, a
process trains there and others wait for it.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from torch import nn

from skipstone.process import ForwardProcess
from skipstone.store import files, locks
from skipstone.store.key import FORMAT, model_key

log = logging.getLogger(__name__)

_WEIGHTS, _CONFIG, _DONE = "ema.safetensors", "config.yaml", "DONE"
_MODEL = "model"  # in the metadata of the weights, the model's key
_LATEST, _BEGINNING = "latest", 4  # the name of the model that was finished last; characters of a key, at least
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

    def listed(self) -> str:
        """The keys of all finished models, for people."""
        return ", ".join(self.keys()) or "none; train one with train.py"

    def find(self, name: str, used: Callable[[Path], str | None]) -> Path:
        """The folder of the model that a person names.

        name:  its key, the beginning of it (at least 4 characters), `latest` for the one that was finished last, its
               folder, or that of a run or a job of a sweep.
        used:  the key of the model in the results of such a folder; None where it has none.

        Raises FileNotFoundError where there is none of that name, ValueError where there are several.
        """
        keys = self.keys()
        if name == _LATEST and keys:
            return self.folder(max(keys, key=lambda key: self.finished_at(key) or 0))
        folder = Path(name).expanduser()
        if folder.is_dir():
            return self._model_of(folder, used(folder))
        begun = [key for key in keys if key.startswith(name) and len(name) >= _BEGINNING]
        if len(begun) > 1 and name not in begun:
            raise ValueError(f"run={name} is the beginning of several keys: choose one of {', '.join(begun)}.")
        if self.folder(name).is_dir():
            return self.folder(name)
        if not begun:
            raise FileNotFoundError(f"run={name} is neither a folder nor a key: there is {self.listed()}.")
        return self.folder(begun[0])

    def _model_of(self, folder: Path, key: str | None) -> Path:
        """The folder of the model `key` that a run used: in this store, or in the one that the run stands beside."""
        if key is None or key != Path(key).name:  # a folder from elsewhere names no path
            return folder
        roots = [self.root, *(parent / self.root.name for parent in folder.absolute().parents)]
        there = [root / key for root in roots if (root / key / _DONE).is_file()]
        if not there:
            raise FileNotFoundError(
                f"run={folder} is of the model {key}, which is not there: there is {self.listed()}."
            )
        return there[0]

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
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    files.write_tensors(tensors, path, {_MODEL: key})


def load_weights(net: nn.Module, folder: Path, key: str) -> None:
    """Give a network the weights of the finished model `key` in `folder`. Raises ValueError if they are not there."""
    path = weights_of(folder)
    try:
        with safe_open(path, "pt") as file:
            of = (file.metadata() or {}).get(_MODEL, key)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        if of == key:
            net.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or of another network: train the model anew with fresh=true.") from error
    if of != key:
        raise ValueError(
            f"{path} is of another model, {of}, than {folder / _CONFIG}, which is of {key}: put the right file there, "
            "or train the model anew with fresh=true."
        )


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


def load(folder: str | Path) -> tuple[nn.Module, ForwardProcess]:
    """The EMA network of a finished model, in eval mode on the CPU, and its forward process.

    folder: outputs/models/<key>, with ~ as the home folder. Raises FileNotFoundError if it is no finished model,
    ValueError if its files do not belong together or ask for code from outside this package.
    """
    folder = Path(folder).expanduser()
    if not (folder / _DONE).is_file():
        raise FileNotFoundError(
            f"{folder} holds no finished model: give a folder outputs/models/<key> with a DONE file."
        )
    config = read_config(folder)
    try:
        net = instantiate(config["model"])
        process = ForwardProcess(instantiate(config["noise"]))
    except (HydraException, RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{folder / _CONFIG} describes no network of this version ({error}): train the model anew with fresh=true."
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

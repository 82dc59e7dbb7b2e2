"""The model store: one folder per trained model, named by its key.

    <outputs>/models/<key>/   config.yaml  last.ckpt  previous.ckpt  ema.safetensors  metrics.csv  DONE

DONE is written last. While it is trained the folder has another name (claims). While <key>.lock lies beside it, a
process trains the model and others wait for it.
"""

import logging
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
from skipstone.process import ForwardProcess, process_of
from skipstone.store import claims, files, locks, tensors
from skipstone.store.key import FORMAT, model_key, normal, same_weights

log = logging.getLogger(__name__)

_WEIGHTS, _CONFIG = "ema.safetensors", "config.yaml"
_MODEL = "model"  # in the metadata of the weights, the model's key
_DAMAGED = "is damaged or of another network: train the model anew with fresh=true."
_LATEST, _BEGINNING = "latest", 4  # the name of the model that was finished last; characters of a key, at least

# What `load` builds from a config.yaml, which may come from anywhere.
_BUILDABLE = (
    "skipstone.UNet", "skipstone.VelocityUNet", "skipstone.exchange.Theirs", "skipstone.EDM",
    "skipstone.network.song.Preconditioned", "skipstone.network.improved.ImprovedUNet",
    "skipstone.noise.linear", "skipstone.noise.cosine", "skipstone.noise.scaled_linear", "skipstone.noise.given",
)  # fmt: skip


class ModelStore:
    """The models below `<outputs>/models`."""

    def __init__(self, outputs: str | Path) -> None:
        self.root = Path(outputs) / "models"

    def folder(self, key: str) -> Path:
        """Where the model of this key lives, whether it exists or not."""
        return self.root / key

    def finished(self, key: str) -> bool:
        """Whether that model is trained."""
        return self.finished_at(key) is not None

    def finished_at(self, key: str) -> int | None:
        """When it was, in nanoseconds since the epoch; None if it is not."""
        return claims.finished_at(self.folder(key))

    def keys(self) -> list[str]:
        """Of all finished models."""
        there = (path.parent for path in self.root.glob(f"*/{claims.DONE}"))
        return sorted(folder.name for folder in there if claims.is_final(folder))

    def as_stored(self, weights: dict[str, Any]) -> dict[str, Any]:
        """`weights`, as `weights_config` gathered them, or the other words in which that model is stored already.

        Its data may have had another name, and older versions keyed settings as they were spelt. A finished model goes
        before one whose training was cut off.
        """
        if self.finished(model_key(weights)):
            return weights
        stored = [weights, *(other for _, other in self._configs(weights["dataset"]["fingerprint"]))]
        same = [other for other in stored if same_weights(other, weights)]
        found = max(same, key=lambda other: (self.finished(model_key(other)), other is not weights))
        if model_key(found) != model_key(weights):
            log.info("this is the model %s, which is there already", model_key(found))
        return found

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
        there = [root / key for root in roots if claims.finished_at(root / key) is not None]
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

        def began(claim: str) -> Path | None:
            return next(self.root.glob(f"{key}*.{claim}/{_CONFIG}"), None)

        if not wanted() and not claims.unsettled(final):
            return final
        self.root.mkdir(parents=True, exist_ok=True)
        with locks.held(self.root / f"{key}.lock", f"the training of {final}", began) as claim:
            list(self.root.glob(f"{key}*/*"))  # NFS may remember what was not there until a folder is read again
            claims.settle(final, claim)
            standing = self.finished_at(key)
            if wanted():
                folder = claims.take(final, claim, fresh)
                self._train(weights, train, folder)
                claims.publish(folder, final, standing)
            if fresh and renewed is not None:
                renewed.touch()
        return final

    def adopt(self, config: dict[str, Any], net: nn.Module, source: str) -> Path:
        """The folder of a model that was trained elsewhere, stored now if it is not there.

        config:  `model` and `noise` as for a trained model, and what else tells it from others
        net:     has its weights
        source:  what it was, for the log
        """

        def store(folder: Path) -> nn.Module:
            log.info("storing %s as %s", source, folder)
            return net

        return self.ensure(config, store)

    def _train(self, weights: dict[str, Any], train: Callable[[Path], nn.Module], folder: Path) -> None:
        """Train into `folder`, which is finished once DONE is in it."""
        self._say_what_changed(weights)
        files.remove_temporary(folder)
        with files.replacing(folder / _CONFIG) as path:
            OmegaConf.save(OmegaConf.create(weights), path)
        key = model_key(weights)
        save_weights(train(folder), weights_of(folder), key)
        files.write(folder / claims.DONE, f"{key}\n".encode())

    def _configs(self, holding: str = "") -> Iterator[tuple[Path, dict[str, Any]]]:
        """The model folders and what was stored in each of what changes the weights, where it holds these letters."""
        for path in sorted(self.root.glob(f"*/{_CONFIG}")):
            try:
                if holding not in path.read_text(encoding="utf-8"):
                    continue
                config = files.read_yaml(path)
                if claims.key_of(path.parent) == model_key(config):
                    yield path.parent, config
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                continue  # no model of ours; it is not what was asked for

    def _say_what_changed(self, weights: dict[str, Any]) -> None:
        """Warn where a model of the same settings was trained on other images under the same name."""
        new = weights["dataset"].get("fingerprint")
        for folder, other in self._configs():
            old = other["dataset"].get("fingerprint")
            if old != new and normal({**other, "dataset": {**other["dataset"], "fingerprint": new}}) == normal(weights):
                state = "was" if claims.finished_at(folder) else "is half"
                log.warning(
                    "the images of dataset %s have changed since %s %s trained on them, so a new model is trained; "
                    "the old one stays as it is",
                    weights["dataset"]["name"], folder, state,
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


def build(model: dict[str, Any], device: str = "cpu") -> nn.Module:
    """The network that `model` of a config.yaml describes; whoever reads one checks what it names (read_config)."""
    arguments = {name: instantiate(value) if isinstance(value, dict) else value for name, value in model.items()}
    with torch.device(device):
        return get_object(arguments.pop("_target_"))(**arguments)


def _require_fit(config: dict[str, Any], folder: Path) -> None:
    """Raise ValueError unless the weights in `folder` are of the network that this config describes.

    It is found out before anything is built, because a config from elsewhere may describe one of any size.
    """
    path, key = weights_of(folder), model_key(config)
    with _weights_or_sentence(path):
        there, of = tensors.header(path)
    _require_own(of.get(_MODEL), folder, key)
    model = config["model"]
    blocks = model.get("blocks", 1) * len(model.get("multipliers", ()))
    if blocks <= len(there):  # each block has several tensors; a network without weights costs time all the same
        described = build(model, "meta").state_dict()
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
    if of is None and model_key(read_config(folder)) == key == claims.key_of(folder):
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


def read_config(folder: Path, foreign: bool = False) -> dict[str, Any]:
    """What `weights_config` gave for the model in `folder`, as plain containers.

    foreign: its network may be of any class, because nobody builds it from there.

    Raises ValueError if that cannot be read, is of another version, or asks for more than numbers and what we build.
    """
    path = folder / _CONFIG
    try:
        config = files.read_yaml(path)
        ours = "name" in config["dataset"] and all(isinstance(config[part], dict) for part in ("model", "noise"))
        threads = config.get("threads")
        ours = ours and (threads is None or (type(threads) is int and threads > 0))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged or absent: train the model anew with fresh=true.") from error
    if not ours or config.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{path} is of another version: train the model anew with fresh=true.")
    _require_plain({k: v for k, v in config.items() if k != "model"} if foreign else config, path)
    return config


@checked
def load(folder: str | Path, network: nn.Module | None = None) -> tuple[nn.Module, ForwardProcess]:
    """The EMA network of a finished model, in eval mode on the CPU, and its forward process.

    folder:   outputs/models/<key>, with ~ as the home folder
    network:  takes the weights, in place of the network that the model's config.yaml names

    The network's num_steps is T, and its threads are those of the CPU that it was trained with, or None; skipstone.fast
    uses both. Raises FileNotFoundError if it is no finished model, ValueError if its files do not belong together or
    ask for code from outside this package.
    """
    folder = Path(folder).expanduser()
    if claims.finished_at(folder) is None:
        raise FileNotFoundError(
            f"{folder} holds no finished model: give a folder outputs/models/<key> with a DONE file."
        )
    config = read_config(folder, network is not None)
    try:
        if network is None:
            _require_fit(config, folder)
        net = build(config["model"]) if network is None else network
        process = process_of(instantiate(config["noise"]))
    except (HydraException, RuntimeError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(
            f"{folder / _CONFIG} describes no network of this version ({error.__cause__ or error}): train the model "
            "anew with fresh=true."
        ) from error
    load_weights(net, folder, model_key(config))
    net.num_steps, net.threads = process.num_steps, config.get("threads")
    return net.to(memory_format=torch.channels_last).eval(), process


def _require_plain(node: Any, path: Path) -> None:
    """A config names what is built from it; one that came with a foreign model must not name any callable it likes.

    Nor is anything in it looked up elsewhere: what we write has no interpolation left.
    """
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None and target not in _BUILDABLE:
            raise ValueError(
                f"{path} asks for {target}, which skipstone.load does not build: build the network yourself and give "
                "it as network=."
            )
        for name in node:
            if str(name).startswith("_") and name != "_target_":
                raise ValueError(f"{path} has the key {name}, which is not followed: remove it.")
    if isinstance(node, str) and "${" in node:
        raise ValueError(f"{path} refers to {node}, which is not looked up: write the value itself there.")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _require_plain(child, path)

"""One stored model: its settings, its weights, and the network that they make. None of its files is trusted."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from torch import nn

from skipstone.checked import checked
from skipstone.network.adapt import adapt, gives
from skipstone.process import ForwardProcess, process_of
from skipstone.store import claims, files, tensors
from skipstone.store.key import FORMAT, model_key

log = logging.getLogger(__name__)

CONFIG, _WEIGHTS = "config.yaml", "ema.safetensors"
_MODEL = "model"  # in the metadata of the weights, the model's key
_DAMAGED = "is damaged or of another network: train the model anew with fresh=true."

# What `load` builds from a config.yaml, which may come from anywhere.
_BUILDABLE = (
    "skipstone.UNet", "skipstone.VelocityUNet", "skipstone.exchange.Theirs", "skipstone.EDM",
    "skipstone.network.song.Preconditioned", "skipstone.network.improved.ImprovedUNet",
    "skipstone.noise.linear", "skipstone.noise.cosine", "skipstone.noise.scaled_linear", "skipstone.noise.given",
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
            f"{weights_of(folder)} is of another model, {of or 'which it does not name'}, than {folder / CONFIG}, "
            f"which is of {key}: put the right file there, or train the model anew with fresh=true."
        )


@cache
def _note_unnamed(path: Path) -> None:
    """Once a file."""
    log.warning("%s does not name its model: it is taken for the one of the config.yaml beside it", path)


def read_config(folder: Path, foreign: bool = False, allow: str | None = None) -> dict[str, Any]:
    """What `weights_config` gave for the model in `folder`, as plain containers.

    foreign: its network may be of any class, because nobody builds it from there.
    allow:   a module, or the beginning of its name up to a dot, from which the class of the network may be.

    Raises ValueError if that cannot be read, is of another version, or asks for more than numbers and what we build.
    """
    path = folder / CONFIG
    try:
        config = files.read_yaml(path)
        ours = "name" in config["dataset"] and all(isinstance(config[part], dict) for part in ("model", "noise"))
        threads = config.get("threads")
        ours = ours and (threads is None or (type(threads) is int and threads > 0))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged or absent: train the model anew with fresh=true.") from error
    if not ours or config.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{path} is of another version: train the model anew with fresh=true.")
    plain = {name: part for name, part in config.items() if name != "model"}
    if not foreign:
        target = config["model"].get("_target_")
        if _foreign(target) and not (allow and str(target).startswith(f"{allow}.")):
            raise ValueError(
                f"{path} asks for {target}, which skipstone.load does not build: if you trust its code, add "
                f"allow={str(target).rpartition('.')[0]}; or build the network yourself and give it as network=."
            )
        plain["model"] = {name: value for name, value in config["model"].items() if name != "_target_"}
    _require_plain(plain, path)
    return config


def _foreign(target: Any) -> bool:
    """Whether it is named, and none that is built here for anybody."""
    return target is not None and target not in _BUILDABLE


@checked
def load(
    folder: str | Path, network: nn.Module | None = None, allow: str | None = None
) -> tuple[nn.Module, ForwardProcess]:
    """The EMA network of a finished model, in eval mode on the CPU, and its forward process.

    folder:   outputs/models/<key>, with ~ as the home folder
    network:  takes the weights, in place of the network that the model's config.yaml names
    allow:    the module of a network that is none of ours, which is imported and built; nothing else is

    The network's num_steps is T, and its threads are those of the CPU that it was trained with, or None; skipstone.fast
    uses both. Raises FileNotFoundError if it is no finished model, ValueError if its files do not belong together or
    ask for code from outside this package.
    """
    folder = Path(folder).expanduser()
    if claims.finished_at(folder) is None:
        raise FileNotFoundError(
            f"{folder} holds no finished model: give a folder outputs/models/<key> with a DONE file."
        )
    config = read_config(folder, network is not None, allow)
    foreign = network is None and _foreign(config["model"].get("_target_"))
    try:
        if foreign:
            _require_network(config["model"]["_target_"], allow)
        elif network is None:
            _require_fit(config, folder)
        net = build(config["model"]) if network is None else network
        process = process_of(instantiate(config["noise"]))
    except (HydraException, RuntimeError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(
            f"{folder / CONFIG} describes no network of this version ({error.__cause__ or error}): train the model "
            "anew with fresh=true."
        ) from error
    load_weights(net, folder, model_key(config))
    net = opened(net.to(memory_format=torch.channels_last).eval(), config, process)
    net.num_steps, net.threads = process.num_steps, config.get("threads")
    for name in ("channels", "image_size") if foreign else ():  # what the commands ask of a network, beside eps
        setattr(net, name, getattr(net, name, config["model"].get(name)))
    return net, process


def opened(net: nn.Module, config: dict[str, Any], process: ForwardProcess) -> nn.Module:
    """eps = net(x, t) of a network with its weights, whatever it was trained to predict.

    config: what was stored with it; of its `training`, `predicts` and `label_dropout` are asked for.
    """
    training = config.get("training", {})
    if training.get("label_dropout") == 0:
        net.null_label = None  # its embedding was never trained
    predicts = gives(net, training.get("predicts", "eps"))
    return net if predicts == "eps" else adapt(net, predicts, process)


def _require_network(target: str, allow: str | None) -> None:
    """Import what `allow` names. Raises ValueError unless there is a network of that name."""
    try:
        found = get_object(target)
    except Exception as error:  # whatever a module does when it is imported
        raise ValueError(
            f"allow={allow}: {target} cannot be imported ({error.__cause__ or error}): name the folder of its module "
            "in PYTHONPATH."
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"{target} is no torch.nn.Module, so it is not called: leave allow={allow} out.")


def _require_plain(node: Any, path: Path) -> None:
    """A config names what is built from it; one that came with a foreign model must not name any callable it likes.

    Nor is anything in it looked up elsewhere: what we write has no interpolation left.
    """
    if isinstance(node, dict):
        target = node.get("_target_")
        if _foreign(target):
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

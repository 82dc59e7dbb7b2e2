"""Single files of weights: the official .ckpt, Lightning's of ours, improved-diffusion's .pt, plain safetensors.

torch reads them with weights_only=True, so nothing in them is run.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch import Tensor

from skipstone.exchange import improved, names
from skipstone.exchange.foreign import Foreign
from skipstone.exchange.weights import contents
from skipstone.process import process_of
from skipstone.store import stored

_OFFICIAL = {"_target_": "skipstone.noise.linear", "num_steps": 1000, "beta_1": 1e-4, "beta_T": 0.02}
_ATTENTION = 16  # pixels: where every network of the official repository has it
_OURS, _PARALLEL = "net.", "module."  # before every name: of a LightningModule of ours, of DataParallel


def read(path: Path, like: dict[str, Any] | None = None) -> Foreign:
    """The network of a file.

    path:  .ckpt, .pt, .pth or .safetensors
    like:  `model` and `noise` as in a config.yaml of ours, where the weights alone do not tell

    Raises ValueError, with what was found, for what is not supported.
    """
    states = contents(path)
    if isinstance(states, list | tuple):  # of the official training: network, optimizer, epoch, step, average
        found = [state for state in states if _is_state(state)]
        if not found:
            raise ValueError(f"{path} holds a list without weights in it: {', '.join(_kinds(states))}.")
        state = found[-1]
    elif _is_state(states):
        state = states
    elif isinstance(states, Mapping) and _is_state(states.get("state_dict")):
        state = _lightning(states, path)
        like = like or stored.read_config(path.parent)
    else:
        raise ValueError(f"{path} holds no weights that are known here, but {', '.join(_kinds([states]))}.")
    state = {name.removeprefix(_PARALLEL): tensor for name, tensor in state.items()}
    if like is not None:
        return _of(state, like, f"weights like {like['model']['_target_']}", path)
    if "temb.dense.0.weight" in state:
        return _of(state, {"model": _official(state, path), "noise": _OFFICIAL}, "an official checkpoint", path)
    if improved.MARK in state:
        return _of(state, improved.settings(state, path), "improved-diffusion's weights", path)
    raise ValueError(
        f"{path} does not tell its network; its first weights are {', '.join(list(state)[:3])}: give like=<config.yaml "
        "of a model of ours> with the same network."
    )


def _of(state: dict[str, Tensor], settings: dict[str, Any], kind: str, path: Path) -> Foreign:
    net = stored.build(settings["model"])
    spellings = {"temb.dense.0.weight": names.official, "time_embedding.linear_1.weight": names.diffusers}
    spelling = next((each for name, each in spellings.items() if name in state), names.ours)
    names.give(net, state, spelling, path)
    process = process_of(instantiate(settings["noise"]))
    kept = {"model": settings["model"], "noise": settings["noise"]}
    training = settings.get("training", {})
    about = {name: training[name] for name, usual in (("predicts", "eps"), ("label_dropout", None))
             if training.get(name, usual) != usual}  # fmt: skip
    return Foreign(net.eval(), process, kind, kept | ({"training": about} if about else {}))


def _official(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The arguments of our UNet, from the shapes of the official network's weights."""
    blocks = {tuple(map(int, found.groups())) for found in map(_BLOCK.match, state) if found}
    levels = 1 + max(level for level, _ in blocks)
    widths = [len(state[f"down.{level}.block.0.conv1.weight"]) for level in range(levels)]
    attends = [level for level in range(levels) if f"down.{level}.attn.0.q.weight" in state]
    if len(attends) != 1:
        raise ValueError(f"{path} attends at {len(attends)} levels, so its image size is unknown: give like=<config>.")
    base = len(state["conv_in.weight"])
    return {
        "_target_": "skipstone.UNet",
        "image_size": _ATTENTION * 2 ** attends[0],
        "channels": state["conv_in.weight"].shape[1],
        "base": base,
        "multipliers": [width // base for width in widths],
        "blocks": sum(level == 0 for level, _ in blocks),
        "attention": [_ATTENTION],
        "dropout": 0.0,
        "patch": 1,
    }


_BLOCK = re.compile(r"down\.(\d+)\.block\.(\d+)\.conv1\.weight")


def _lightning(states: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The averaged weights of our LightningModule; its config.yaml lies beside the checkpoint."""
    state = states["state_dict"]
    ours = {name.removeprefix(_OURS): tensor for name, tensor in state.items() if name.startswith(_OURS)}
    if not ours:
        raise ValueError(f"{path} is of another LightningModule: its first weights are {', '.join(list(state)[:3])}.")
    return ours


def _is_state(thing: Any) -> bool:
    tensors = isinstance(thing, Mapping) and bool(thing) and all(isinstance(each, Tensor) for each in thing.values())
    return tensors and all(isinstance(name, str) for name in thing)


def _kinds(things: Any) -> list[str]:
    return [
        f"a {type(each).__name__}" + (f" of {list(each)[:3]}" if isinstance(each, Mapping) else "") for each in things
    ]

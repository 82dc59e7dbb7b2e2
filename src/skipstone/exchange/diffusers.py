"""Folders of diffusers: a UNet2DModel, or a whole DDPM or DDIM pipeline around one; read here, written by `export`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch import Tensor, nn

from skipstone.exchange import names
from skipstone.exchange.foreign import Foreign
from skipstone.exchange.weights import contents
from skipstone.network.adapt import Adapted
from skipstone.network.unet import Attention, UNet
from skipstone.process import ForwardProcess
from skipstone.store import stored

PIPELINE, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
PREDICTS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}

# What our UNet is, in the words of UNet2DModel's config. What a config does not have is diffusers' own default.
_DEFAULTS = {
    "center_input_sample": False, "time_embedding_type": "positional", "time_embedding_dim": None, "freq_shift": 0,
    "flip_sin_to_cos": True, "mid_block_scale_factor": 1, "downsample_padding": 1, "downsample_type": "conv",
    "upsample_type": "conv", "act_fn": "silu", "attention_head_dim": 8, "norm_num_groups": 32,
    "attn_norm_num_groups": None, "norm_eps": 1e-5, "resnet_time_scale_shift": "default", "add_attention": True,
    "class_embed_type": None, "num_class_embeds": None, "mid_block_type": "UNetMidBlock2D", "dropout": 0.0,
}  # fmt: skip
_OURS = _DEFAULTS | {
    "freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0, "attention_head_dim": None, "norm_eps": 1e-6,
}  # fmt: skip

_ELSE = "export to=safetensors, or train model=unet_cifar10"


def read(folder: Path) -> Foreign:
    """The network and the process of a folder. Raises ValueError, with what was found, for what is not supported.

    A UNet2DModel alone says nothing of its process: it is taken for one of eps on DDPM's own β.
    """
    pipeline = (folder / PIPELINE).is_file()
    scheduler = _json(folder / "scheduler" / SCHEDULER) if pipeline else {}
    home = folder / "unet" if pipeline else folder
    config = _json(home / CONFIG)
    kind = config.get("_class_name")
    if kind != "UNet2DModel":
        raise ValueError(f"{home / CONFIG} is of a {kind}, which is not supported: UNet2DModel is.")
    if not isinstance(config.get("sample_size"), int):
        raise ValueError(
            f"{home / CONFIG} is of images {config.get('sample_size')}: square ones are supported, as one number."
        )
    predicts, noise = _predicts(scheduler, folder), _noise(scheduler, folder)
    try:
        settings = our_settings(config, predicts)
    except (LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{home / CONFIG} does not describe a UNet2DModel: fetch the whole folder again.") from error
    state = {_renamed(name): tensor for name, tensor in _weights(home).items()}
    if settings is None:
        config = {name: value for name, value in config.items() if not name.startswith("_")}
        settings = {"_target_": "skipstone.exchange.Theirs", "config": config, "predicts": predicts, "betas": noise}
        net = stored.build(settings)
        names.give(net.net, state, names.ours, home)
    else:
        settings |= {"betas": noise} if predicts == "v" else {}
        net = stored.build(settings)
        names.give(net, state, names.diffusers, home)
    kind = "a diffusers pipeline" if pipeline else "a diffusers UNet2DModel"
    clip = bool(scheduler.get("clip_sample", False))
    return Foreign(net.eval(), ForwardProcess(instantiate(noise)), kind, {"model": settings, "noise": noise}, clip)


def our_settings(config: dict[str, Any], predicts: str) -> dict[str, Any] | None:
    """The arguments of our UNet for the same architecture; None where ours cannot be that network."""
    theirs = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
    widths, down, up = (config[name] for name in ("block_out_channels", "down_block_types", "up_block_types"))
    attends = [kind == "AttnDownBlock2D" for kind in down]
    known = {"DownBlock2D", "AttnDownBlock2D"}, {"UpBlock2D", "AttnUpBlock2D"}
    same = theirs | {"dropout": 0.0} == _OURS and set(down) <= known[0] and set(up) <= known[1]
    mirrored = [kind == "AttnUpBlock2D" for kind in up] == attends[::-1]
    alike = config["in_channels"] == config["out_channels"]
    whole = all(width % widths[0] == 0 for width in widths)
    if not (same and mirrored and alike and whole and predicts in ("eps", "v")):
        return None
    sizes = [config["sample_size"] // 2**i for i in range(len(widths))]
    settings = {
        "_target_": "skipstone.UNet" if predicts == "eps" else "skipstone.VelocityUNet",
        "image_size": config["sample_size"],
        "channels": config["in_channels"],
        "base": widths[0],
        "multipliers": [width // widths[0] for width in widths],
        "blocks": config["layers_per_block"],
        "attention": [size for size, there in zip(sizes, attends, strict=True) if there],
        "dropout": theirs["dropout"],
        "patch": 1,
    }
    plain = stored.build(settings | {"_target_": "skipstone.UNet"}, "meta")
    return settings if _groups(plain) == {theirs["norm_num_groups"]} else None


def _groups(net: UNet) -> set[int]:
    return {module.num_groups for module in net.modules() if isinstance(module, nn.GroupNorm)}


def config_of(net: UNet) -> dict[str, Any]:
    """UNet2DModel's config for our network. Raises ValueError where UNet2DModel cannot be it."""
    groups = _groups(net)
    if net.classes:  # theirs has a label for each class and none for "no class"
        raise ValueError(f"this network has {net.classes} classes, and a DDIM pipeline asks without labels: {_ELSE}.")
    if net.patch != 1:
        raise ValueError(
            f"diffusers' UNet2DModel has no patches, and this network has model.patch={net.patch}: {_ELSE}."
        )
    if len(groups) > 1:
        found = " and ".join(map(str, sorted(groups)))
        raise ValueError(f"diffusers' UNet2DModel has one number of groups, and this network's norms {found}: {_ELSE}.")
    attends = [isinstance(level.attentions[0], Attention) for level in net.down]
    return _OURS | {
        "_class_name": "UNet2DModel",
        "sample_size": net.image_size,
        "in_channels": net.channels,
        "out_channels": net.channels,
        "block_out_channels": [level.blocks[0].conv1.out_channels for level in net.down],
        "layers_per_block": len(net.down[0].blocks),
        "down_block_types": ["AttnDownBlock2D" if there else "DownBlock2D" for there in attends],
        "up_block_types": ["AttnUpBlock2D" if there else "UpBlock2D" for there in attends[::-1]],
        "norm_num_groups": groups.pop(),
    }


def _predicts(scheduler: dict[str, Any], folder: Path) -> str:
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in PREDICTS:
        raise ValueError(f"{folder} predicts {kind!r}, which is not supported: {', '.join(PREDICTS)} are.")
    return PREDICTS[kind]


def _noise(scheduler: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The scheduler's β as a function of skipstone.noise and its arguments."""
    if scheduler.get("rescale_betas_zero_snr"):
        raise ValueError(f"{folder} rescales its betas to alpha_bar = 0, where no eps is defined: it is not supported.")
    steps = int(scheduler.get("num_train_timesteps", 1000))
    if scheduler.get("trained_betas") is not None:
        return {"_target_": "skipstone.noise.given", "betas": [float(beta) for beta in scheduler["trained_betas"]]}
    ends = {"beta_1": scheduler.get("beta_start", 1e-4), "beta_T": scheduler.get("beta_end", 0.02)}
    kinds = {
        "linear": {"_target_": "skipstone.noise.linear", "num_steps": steps} | ends,
        "scaled_linear": {"_target_": "skipstone.noise.scaled_linear", "num_steps": steps} | ends,
        "squaredcos_cap_v2": {"_target_": "skipstone.noise.cosine", "num_steps": steps},
    }
    kind = scheduler.get("beta_schedule", "linear")
    if kind not in kinds:
        raise ValueError(f"{folder} has the betas {kind!r}, which are not supported: {', '.join(kinds)} are.")
    return kinds[kind]


def _weights(home: Path) -> dict[str, Tensor]:
    for name in WEIGHTS:
        if (home / name).is_file():
            return contents(home / name)
    raise ValueError(f"{home} holds no weights: {' or '.join(WEIGHTS)} must be there.")


_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _renamed(name: str) -> str:
    """Attention's layers as diffusers calls them since 0.14; the folders of the first models have older names."""
    return ".".join(_OLD_NAMES.get(part, part) for part in name.split("."))


class Theirs(Adapted):
    """A UNet2DModel that ours cannot be, by diffusers' own code, as a network that predicts eps.

    config:    as in its config.json
    predicts:  as for `adapt`
    betas:     float [T], of its process
    """

    def __init__(self, config: Mapping[str, Any], predicts: str, betas: Tensor) -> None:
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            raise ValueError("this is a network that only diffusers builds: pip install diffusers.") from error
        super().__init__(UNet2DModel.from_config(_plain(config)), predicts, ForwardProcess(betas))
        self.channels, self.image_size = config["in_channels"], config["sample_size"]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for name, value in config.items()}  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is absent or damaged: fetch the whole folder again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no configuration: fetch the whole folder again.")
    return found

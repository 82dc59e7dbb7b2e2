"""improved-diffusion's .pt (Nichol & Dhariwal 2021), a state dict: what its shapes tell of its network."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

log = logging.getLogger(__name__)

MARK = "time_embed.0.weight"  # a name that only these networks have
_ATTENTION = 16  # pixels: the largest size at which its networks attend
_COSINE = {"_target_": "skipstone.noise.cosine", "num_steps": 4000}
_LINEAR = {"_target_": "skipstone.noise.linear", "num_steps": 1000, "beta_1": 1e-4, "beta_T": 0.02}


def settings(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """`model` and `noise` as in a config.yaml of ours, by the shapes of the weights.

    Shapes do not tell the image size, the heads and the β. They are taken as in the released files, and a line in the
    log says so: attention from 16×16 down; where the embedding scales and shifts, 4 heads and 4000 cosine steps, which
    the network is shown as t/4; else 1 head and 1000 linear steps.

    Raises ValueError, with what was found, for a network of another kind.
    """
    levels = _levels(state, path)
    base, channels = state["input_blocks.0.0.weight"].shape[:2]
    gives = len(state["out.2.weight"])
    if gives not in (channels, 2 * channels) or channels not in (1, 3):
        raise ValueError(f"{path} takes {channels} channels and gives {gives}: networks of 1 or 3 are supported.")
    counts, widths = {len(level) for level in levels}, [level[0][0] for level in levels]
    attends = [i for i, level in enumerate(levels) if level[0][1]]
    if len(counts) != 1 or any(width % base for width in widths) or not attends:
        raise ValueError(f"{path} has levels of {widths} channels and attention at {attends}: give like=<config>.")
    size = _ATTENTION << attends[0]
    width = len(state["input_blocks.1.0.in_layers.2.weight"])
    scale_shift = len(state["input_blocks.1.0.emb_layers.1.weight"]) == 2 * width
    labels = state.get("label_emb.weight")
    noise = _COSINE if scale_shift else _LINEAR
    model = {
        "_target_": "skipstone.network.improved.ImprovedUNet",
        "image_size": size,
        "channels": channels,
        "base": base,
        "multipliers": [width // base for width in widths],
        "blocks": counts.pop(),
        "attention": [size >> i for i in attends],
        "heads": 4 if scale_shift else 1,
        "scale_shift": scale_shift,
        "learned": gives == 2 * channels,
        "classes": 0 if labels is None else len(labels),
        "time_scale": 1000 / noise["num_steps"],
    }
    log.warning(
        "%s does not tell its betas, heads and image size. Taken are %d %s steps, shown as t*%g, %d heads and %d "
        "pixels; like=<config.yaml> names others",
        path, noise["num_steps"], noise["_target_"].rpartition(".")[2], model["time_scale"], model["heads"], size,
    )  # fmt: skip
    return {"model": model, "noise": noise}


def _levels(state: Mapping[str, Tensor], path: Path) -> list[list[tuple[int, bool]]]:
    """Of each level, of each residual block on the way down: its channels, and whether attention follows."""
    levels: list[list[tuple[int, bool]]] = [[]]
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("input_blocks.")}
    for i in sorted(blocks - {0}):
        weight = state.get(f"input_blocks.{i}.0.in_layers.2.weight")
        if weight is not None:
            levels[-1].append((len(weight), f"input_blocks.{i}.1.qkv.weight" in state))
        elif f"input_blocks.{i}.0.op.weight" in state:
            levels.append([])
        else:
            raise ValueError(f"{path} has an input_blocks.{i} that is neither a residual block nor halves the size.")
    if not all(levels):
        raise ValueError(f"{path} has a level without residual blocks, which is not improved-diffusion's network.")
    return levels

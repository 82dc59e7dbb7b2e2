"""What others call the weights of the papers' network, and the way between their names and ours.

Two spellings stand for the same architecture: the official DDPM and DDIM code in PyTorch, and diffusers' UNet2DModel.
Both keep query, key and value apart, where ours are one convolution.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skipstone.network.unet import Attention, ResBlock, UNet

Pairs = dict[str, tuple[str, ...]]  # our module's name → theirs; several are stacked along the first dimension

_SHOWN = 3  # names, in a sentence on what does not fit


def ours(net: nn.Module) -> Pairs:
    """By our own names."""
    return {name: (name,) for name, _ in net.named_modules()}


def official(net: UNet) -> Pairs:
    """By the names of the official DDIM repository, whose levels are numbered by size on the way up, too."""
    last = len(net.up) - 1
    pairs = {"time.0": ("temb.dense.0",), "time.2": ("temb.dense.1",), "norm_out": ("norm_out",)}
    pairs |= {"middle1": ("mid.block_1",), "middle_attention": ("mid.attn_1",), "middle2": ("mid.block_2",)}
    for ours, theirs, levels in (("down", "down", net.down), ("up", "up", net.up)):
        for i, level in enumerate(levels):
            at = f"{theirs}.{i if ours == 'down' else last - i}"
            pairs |= {f"{ours}.{i}.blocks.{j}": (f"{at}.block.{j}",) for j in range(len(level.blocks))}
            pairs |= {f"{ours}.{i}.attentions.{j}": (f"{at}.attn.{j}",) for j in range(len(level.attentions))}
    pairs |= {f"downsamples.{i}.conv": (f"down.{i}.downsample.conv",) for i in range(last)}
    pairs |= {f"upsamples.{i}.conv": (f"up.{last - i}.upsample.conv",) for i in range(last)}
    block = {"time": "temb_proj", "shortcut": "nin_shortcut"}
    attention = {"qkv": ("q", "k", "v"), "out": ("proj_out",)}
    return _by_layer(net, pairs, block, attention)


def diffusers(net: UNet) -> Pairs:
    """By the names of diffusers' UNet2DModel."""
    pairs = {"time.0": ("time_embedding.linear_1",), "time.2": ("time_embedding.linear_2",)}
    pairs |= {"norm_out": ("conv_norm_out",), "middle_attention": ("mid_block.attentions.0",)}
    pairs |= {"middle1": ("mid_block.resnets.0",), "middle2": ("mid_block.resnets.1",)}
    for ours, theirs, levels in (("down", "down_blocks", net.down), ("up", "up_blocks", net.up)):
        for i, level in enumerate(levels):
            pairs |= {f"{ours}.{i}.blocks.{j}": (f"{theirs}.{i}.resnets.{j}",) for j in range(len(level.blocks))}
            pairs |= {f"{ours}.{i}.attentions.{j}": (f"{theirs}.{i}.attentions.{j}",) for j in range(len(level.blocks))}
    for i in range(len(net.up) - 1):
        pairs[f"downsamples.{i}.conv"] = (f"down_blocks.{i}.downsamplers.0.conv",)
        pairs[f"upsamples.{i}.conv"] = (f"up_blocks.{i}.upsamplers.0.conv",)
    block = {"time": "time_emb_proj", "shortcut": "conv_shortcut"}
    attention = {"norm": ("group_norm",), "qkv": ("to_q", "to_k", "to_v"), "out": ("to_out.0",)}
    return _by_layer(net, pairs, block, attention)


def _by_layer(net: UNet, pairs: Pairs, block: Mapping[str, str], attention: Mapping[str, tuple[str, ...]]) -> Pairs:
    """From names of blocks to names of the layers in them: every module of `net` that has weights."""
    found: Pairs = {}
    for layer, module in net.named_modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        parent, _, child = layer.rpartition(".")
        if layer in pairs:
            found[layer] = pairs[layer]
        elif parent not in pairs:
            found[layer] = (layer,)  # conv_in and conv_out have one name everywhere
        else:
            inside = block if isinstance(net.get_submodule(parent), ResBlock) else attention
            names = inside.get(child, child)
            (at,) = pairs[parent]
            found[layer] = tuple(f"{at}.{name}" for name in ([names] if isinstance(names, str) else names))
    return found


def to_ours(theirs: Mapping[str, Tensor], net: nn.Module, spelling: Callable[[Any], Pairs]) -> dict[str, Tensor]:
    """The weights of `net`, float32, from a state dict of another spelling.

    Raises ValueError, with the first names, where some are missing, left over or of another shape.
    """
    pairs, left, found, differ = spelling(net), dict(theirs), {}, []
    for name, ours in net.state_dict().items():
        layer, _, kind = name.rpartition(".")
        names = [f"{each}.{kind}" for each in pairs[layer]]
        parts = [left.pop(each) for each in names if each in left]
        differ += [f"{each} is missing" for each in names if each not in theirs]
        if len(parts) < len(names):
            continue
        tensor = torch.cat([part.float() for part in parts])
        if tensor.numel() != ours.numel() or len(tensor) != len(ours):
            differ.append(f"{names[0]} is {tuple(parts[0].shape)}, and {name} wants {tuple(ours.shape)}")
            continue
        found[name] = tensor.reshape(ours.shape)  # a linear layer and a 1×1 convolution are the same
    differ += [f"{name} is left over" for name in left]
    if differ:
        more = f" and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
        raise ValueError(f"these weights fit in part: {'; '.join(differ[:_SHOWN])}{more}.")
    return found


def give(net: nn.Module, theirs: Mapping[str, Tensor], spelling: Callable[[Any], Pairs], where: Path) -> None:
    """Give `net` the weights of a state dict of another spelling. Raises ValueError, naming where it is from."""
    try:
        net.load_state_dict(to_ours(theirs, net, spelling))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def from_ours(net: UNet, spelling: Callable[[UNet], Pairs]) -> dict[str, Tensor]:
    """A state dict of another spelling, from the weights of `net`."""
    pairs, found = spelling(net), {}
    for name, tensor in net.state_dict().items():
        layer, _, kind = name.rpartition(".")
        names = [f"{each}.{kind}" for each in pairs[layer]]
        linear = spelling is diffusers and isinstance(net.get_submodule(layer.rpartition(".")[0]), Attention)
        for each, part in zip(names, tensor.detach().cpu().chunk(len(names)), strict=True):
            found[each] = (part.flatten(1) if linear and part.ndim == 4 else part).contiguous()
    return found

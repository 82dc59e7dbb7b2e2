"""The ε-network of DDPM and DDIM (Ho et al. 2020, appendix B), sized by its arguments.

With base 128, multipliers (1, 2, 2, 2), two residual blocks a level, attention at 16×16 and 32×32 colour images it is
the papers' 35.75 M-parameter CIFAR-10 network to the last detail that published weights depend on: the sinusoid's
half_dim − 1, the asymmetric padding before strided convolutions, GroupNorm's eps of 1e-6, one attention head.

`patch` > 1 folds patch×patch pixels into channels before the network and back after it: the same network at a
fraction of the cost, for processors.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipstone.checked import checked
from skipstone.process import ForwardProcess, process_of


def _group_norm(channels: int) -> nn.GroupNorm:
    """The paper's 32 groups from 128 channels up; narrower layers keep at least four channels a group."""
    return nn.GroupNorm(math.gcd(32, channels // 4), channels, eps=1e-6)


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Blocks start as the identity and the network at eps = 0 (Ho et al. 2020, released code: init_scale = 0)."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of t, int64 or real [N] (Vaswani et al. 2017; half_dim − 1 as in DDPM's code). Gives float64 [N, dim].

    In float64, so that devices agree: in float32 the last bit of a frequency turns the angle at t = 999 by 6e-5.
    """
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float64) * (-math.log(10_000) / (half - 1)))
    angles = t[:, None] * frequencies[None, :]
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the time embedding is added between; the input is added at the end."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(embedding, out_channels)
        self.norm2 = _group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.shortcut(x) + h


class Attention(nn.Module):
    """Self-attention over all pixels with one head, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        # [N, 3C, H, W] -> three of [N, 1 head, HW, C]; in channels_last memory this moves nothing
        q, k, v = self.qkv(self.norm(x)).permute(0, 2, 3, 1).reshape(n, 1, h * w, 3 * c).chunk(3, dim=-1)
        h_out = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h_out.reshape(n, h, w, c).permute(0, 3, 1, 2))


class Downsample(nn.Module):
    """A strided convolution; the padding is on the right and bottom alone, as in TensorFlow's SAME."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour to the size of the skip that follows (odd sizes too), then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Level(nn.Module):
    """The blocks at one resolution, going down or up, each followed by attention where the level has it."""

    def __init__(self, blocks: list[ResBlock], attentions: list[Attention]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions or [nn.Identity() for _ in blocks])


class UNet(nn.Module):
    """eps = UNet(x, t, labels). x: float [N, channels, image_size, image_size] in the [−1, 1] scale; t: int64 [N].

    labels: int64 [N] in 0 … classes, of a network with classes. The last, which is `null_label`, is no class: with it,
    or without labels, the network is unconditional. The label's embedding is added to the time's.

    base:         channels of the first level
    multipliers:  channels of each level over base; each level halves the size, and an odd one is rounded down
    blocks:       residual blocks per level (one more on the way up)
    attention:    levels that have it, from the bottom: -1 is the last and smallest, -2 the one before; or, as positive
                  numbers, sizes after patching, of which levels have those that are theirs. The middle always has it.
    dropout:      inside residual blocks
    patch:        pixels per side that are folded into channels
    classes:      of the labels; 0 or None for a network without

    Raises ValueError for a size that cannot be patched or halved that often, for channels that cannot be normalised,
    and for levels that are not there.
    """

    @checked
    def __init__(
        self,
        image_size: int,
        channels: int,
        base: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (-3,),
        dropout: float = 0.0,
        patch: int = 1,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes or 0
        if self.classes < 0:
            raise ValueError(f"model.classes={classes} must be at least 1, or null for a network without labels.")
        self.null_label = self.classes or None
        for name, size in (("base", base), ("blocks", blocks), ("channels", channels), ("patch", patch)):
            if size < 1:
                raise ValueError(f"model.{name}={size} must be at least 1.")
        sizes = _level_sizes(image_size, patch, len(multipliers))
        if base % 4:
            raise ValueError(f"model.base={base} must be a multiple of 4: group norm takes channels in fours.")
        if any(not isinstance(m, int) or m < 1 for m in multipliers):
            raise ValueError(f"model.multipliers={list(multipliers)} is not allowed: integers of at least 1.")
        if not 0 <= dropout < 1:
            raise ValueError(f"model.dropout={dropout} must lie in [0, 1).")
        attends = _attends(attention, sizes)
        self.image_size, self.channels, self.base, self.patch = image_size, channels, base, patch
        embedding = 4 * base
        widths = [base * m for m in multipliers]

        def level(pairs: list[tuple[int, int]], i: int) -> Level:
            attentions = [Attention(c_out) for _, c_out in pairs] if i in attends else []
            return Level([ResBlock(c_in, c_out, embedding, dropout) for c_in, c_out in pairs], attentions)

        self.time = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.conv_in = nn.Conv2d(channels * patch**2, base, 3, padding=1)

        self.down, self.downsamples = nn.ModuleList(), nn.ModuleList()
        skips, width = [base], base
        for i, out in enumerate(widths):
            self.down.append(level([(width if j == 0 else out, out) for j in range(blocks)], i))
            skips += [out] * blocks
            width = out
            if i + 1 < len(widths):
                self.downsamples.append(Downsample(out))
                skips.append(out)

        self.middle1 = ResBlock(width, width, embedding, dropout)
        self.middle_attention = Attention(width)
        self.middle2 = ResBlock(width, width, embedding, dropout)

        self.up, self.upsamples = nn.ModuleList(), nn.ModuleList()
        for i, out in reversed(list(enumerate(widths))):
            pairs = []
            for _ in range(blocks + 1):
                pairs.append((width + skips.pop(), out))
                width = out
            self.up.append(level(pairs, i))
            if i > 0:
                self.upsamples.append(Upsample(out))

        self.norm_out = _group_norm(width)
        self.conv_out = _zero(nn.Conv2d(width, channels * patch**2, 3, padding=1))
        # last, so that the other first weights are those of a network without labels
        self.label = nn.Embedding(self.classes + 1, embedding) if self.classes else None

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = F.silu(self.embed(t, labels, x.dtype))
        h = self.conv_in(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for i, level in enumerate(self.down):
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                h = attention(block(h, embedding))
                skips.append(h)
            if i < len(self.downsamples):
                h = self.downsamples[i](h)
                skips.append(h)
        h = self.middle2(self.middle_attention(self.middle1(h, embedding)), embedding)
        for i, level in enumerate(self.up):
            for block, attention in zip(level.blocks, level.attentions, strict=True):
                h = attention(block(torch.cat([h, skips.pop()], dim=1), embedding))
            if i < len(self.upsamples):
                h = self.upsamples[i](h, skips[-1].shape[-2:])
        return self.read(F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch), x, t)

    def embed(self, t: Tensor, labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        """What all blocks are given, before its SiLU: [N, 4 base], of `dtype` outside autocast."""
        embedding = self.time(timestep_embedding(t, self.base).to(dtype))
        if self.label is None:
            if labels is not None:
                raise ValueError("this network has no classes (model.classes): leave labels out.")
            return embedding
        # Dhariwal & Nichol 2021: the two embeddings are added
        return embedding + self.label(torch.full_like(t, self.classes, dtype=torch.int64) if labels is None else labels)

    def read(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The eps that the output of the last layer stands for at (x, t): here, itself."""
        return output


class VelocityUNet(UNet):
    """The UNet F with Salimans & Ho's v-parameterisation (2022, section 4) around it; still an ε-predictor:

        eps = √(1−ᾱ_t) x_t + √ᾱ_t F(x_t, t)

    At large t, x0 = (x_t − √(1−ᾱ_t) eps)/√ᾱ_t blows up an error in eps by 1/√ᾱ_t, 158 times at the last step; an error
    in F reaches x0 unamplified. That is what lets a network that trains for minutes sample at all. The objective
    is still in eps: L_simple, or what training.weighting makes of it.

    betas: float [T], as for ForwardProcess, or a process; other arguments as for UNet.
    """

    def __init__(self, *args: Any, betas: Tensor | ForwardProcess, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._process = process_of(betas)
        alpha_bars = self._process.alpha_bars
        self.register_buffer("signal", alpha_bars.sqrt().float(), persistent=False)
        self.register_buffer("noise", (1 - alpha_bars).sqrt().float(), persistent=False)

    def read(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """eps as above, from F = output."""
        if t.is_floating_point():
            signal, noise = (root.to(self.signal.dtype) for root in self._process.roots(t))
        else:
            signal, noise = self.signal[t], self.noise[t]
        return noise.view(-1, 1, 1, 1) * x + signal.view(-1, 1, 1, 1) * output


def attention_levels(attention: Iterable[int], sizes: Sequence[int]) -> set[int]:
    """Which levels of these sizes have attention, counted from 0, the largest. attention: as for UNet."""
    named = set(attention)
    return {i for i, size in enumerate(sizes) if size in named or i - len(sizes) in named}


def _attends(attention: Sequence[int], sizes: list[int]) -> set[int]:
    """`attention_levels`; ValueError for what names no level."""
    levels = attention_levels(attention, sizes)
    wrong = [named for named in attention if type(named) is not int or named == 0 or named < -len(sizes)]
    if wrong or (attention and not levels):
        raise ValueError(
            f"model.attention={list(attention)} names none of the levels' sizes {sizes}: name some of them, or levels "
            f"from the bottom, -1 to -{len(sizes)}, or [] for attention in the middle alone."
        )
    return levels


def _level_sizes(image_size: int, patch: int, levels: int) -> list[int]:
    """The side of the feature map at each level; ValueError where the image size does not work out."""
    if image_size % patch:
        raise ValueError(
            f"dataset.image_size={image_size} is not divisible by model.patch={patch}: change one of them."
        )
    sizes = [image_size // patch]
    for _ in range(levels - 1):
        sizes.append(sizes[-1] // 2)  # the strided convolution's (side + 1 − 3) // 2 + 1
    if sizes[-1] < 1:
        raise ValueError(
            f"dataset.image_size={image_size} is too small for {levels} levels of model.multipliers with "
            f"model.patch={patch}: it would vanish; use at least {patch * 2 ** (levels - 1)} pixels or fewer levels."
        )
    return sizes

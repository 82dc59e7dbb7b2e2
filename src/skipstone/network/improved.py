"""The ε-network of improved-diffusion (Nichol & Dhariwal 2021). Its weights have the names of the released files."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the embedding is added between, or scales and shifts the second norm."""

    def __init__(self, c_in: int, c_out: int, embedding: int, scale_shift: bool) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(nn.GroupNorm(32, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, c_out * (2 if scale_shift else 1)))
        last = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(32, c_out), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers(x)
        shown = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = shown.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + shown)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    """Self-attention over all pixels, added to the input."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        flat = x.reshape(n, c, height * width)
        # query, key and value of a head lie beside each other: [N, 3C, HW] -> three of [N, heads, HW, C/heads]
        qkv = self.qkv(self.norm(flat)).reshape(n, self.heads, 3, c // self.heads, height * width)
        q, k, v = qkv.permute(2, 0, 1, 4, 3)
        h = F.scaled_dot_product_attention(q, k, v).mT.reshape(n, c, height * width)
        return (flat + self.proj_out(h)).reshape(x.shape)


class Downsample(nn.Module):
    """A strided convolution, padded on all sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Layers(nn.Sequential):
    """Layers one after another; residual blocks are shown the embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


class ImprovedUNet(nn.Module):
    """eps = ImprovedUNet(x, t, labels). x: float [N, channels, image_size, image_size]; t: [N]; labels: int64 [N].

    image_size:   pixels per side
    channels:     of the image
    base:         channels of the first level, a multiple of 32
    multipliers:  channels of each level over base; each level halves the size
    blocks:       residual blocks per level (one more on the way up)
    attention:    sizes that have it; the middle always has it
    heads:        of attention
    scale_shift:  whether the embedding scales and shifts, or is added
    learned:      whether the network also gives a variance, which is left out
    classes:      how many labels it was trained on; 0 for none. A network of labels has no answer without one.
    time_scale:   what t is multiplied by, 1000/T where the training rescaled its steps
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        base: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 3,
        attention: Sequence[int] = (16, 8),
        heads: int = 4,
        scale_shift: bool = True,
        learned: bool = True,
        classes: int = 0,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_size, self.channels, self.base, self.time_scale = image_size, channels, base, time_scale
        embedding, last = 4 * base, len(multipliers) - 1

        def layers(c_in: int, c_out: int, size: int) -> list[nn.Module]:
            attends = [Attention(c_out, heads)] if size in attention else []
            return [ResBlock(c_in, c_out, embedding, scale_shift), *attends]

        self.time_embed = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label_emb = nn.Embedding(classes, embedding) if classes else None
        self.input_blocks = nn.ModuleList([Layers(nn.Conv2d(channels, base, 3, padding=1))])
        skips, c = [base], base
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.input_blocks.append(Layers(*layers(c, base * multiplier, image_size >> level)))
                c = base * multiplier
                skips.append(c)
            if level < last:
                self.input_blocks.append(Layers(Downsample(c)))
                skips.append(c)
        self.middle_block = Layers(
            ResBlock(c, c, embedding, scale_shift), Attention(c, heads), ResBlock(c, c, embedding, scale_shift)
        )
        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for i in range(blocks + 1):
                found = layers(c + skips.pop(), base * multiplier, image_size >> level)
                c = base * multiplier
                self.output_blocks.append(Layers(*found, *([Upsample(c)] if level and i == blocks else [])))
        out = nn.Conv2d(c, channels * (2 if learned else 1), 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), out)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = self.time_embed(self._sinusoids(t).to(x.dtype))
        if self.label_emb is not None:
            if labels is None:
                raise ValueError(
                    "this network makes images of a class: give it labels, from Python as net(x, t, labels)."
                )
            embedding = embedding + self.label_emb(labels)
        h, skips = x, []
        for layers in self.input_blocks:
            h = layers(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for layers in self.output_blocks:
            h = layers(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)[:, : self.channels]

    def _sinusoids(self, t: Tensor) -> Tensor:
        """Cosines and sines of t: float64 [N, base]."""
        half = self.base // 2
        steps = torch.arange(half, device=t.device, dtype=torch.float64)
        angles = self.time_scale * t.double()[:, None] * torch.exp(-math.log(10_000) / half * steps)
        return torch.cat([angles.cos(), angles.sin()], dim=1)

"""DDPM++ and NCSN++ as Karras et al. (2022) use them, and EDM's preconditioning around them, as an ε-network.

Both are the network of Song et al. (2021): residual blocks that halve and double the size themselves, sums scaled by
√½, one attention head. DDPM++ embeds the noise level in sinusoids and resamples by the mean of two pixels. NCSN++ has
random Fourier features, a smoother filter, and adds the shrunken image to the features on the way down. The weights
have the names that EDM's own code gives them, so that its state dicts fit.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipstone.network.unet import timestep_embedding
from skipstone.process import ForwardProcess, process_of

EMBEDDINGS = ("positional", "fourier")


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


class Conv(nn.Conv2d):
    """A convolution that keeps the size, after one that halves or doubles it with a fixed filter if `resample`.

    resample:  "down", "up" or ""
    taps:      the filter, along one side and not normalised
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 3, resample: str = "", taps: Sequence[float] = (1, 1)
    ) -> None:
        super().__init__(c_in, c_out, kernel, padding=kernel // 2)
        self.resample = resample
        if resample:
            line = torch.tensor([float(tap) for tap in taps])
            self.register_buffer("resample_filter", torch.outer(line, line)[None, None] / line.sum() ** 2)
            self.margin = (len(line) - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            x = self._halved(x, self.margin)
        elif self.resample == "up":
            weights = 4 * self.resample_filter.expand(x.shape[1], 1, -1, -1)
            x = F.conv_transpose2d(x, weights, stride=2, padding=self.margin, groups=x.shape[1])
        return super().forward(x)

    def _halved(self, x: Tensor, padding: int) -> Tensor:
        weights = self.resample_filter.expand(x.shape[1], 1, -1, -1)
        return F.conv2d(x, weights, stride=2, padding=padding, groups=x.shape[1])


class ConvDown(Conv):
    """A convolution, and then the filter that halves the size: the borders are padded once, for both."""

    def __init__(self, c_in: int, c_out: int, taps: Sequence[float]) -> None:
        super().__init__(c_in, c_out, resample="down", taps=taps)

    def forward(self, x: Tensor) -> Tensor:
        return self._halved(F.conv2d(x, self.weight, self.bias, padding=self.padding[0] + self.margin), 0)


class Block(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with the embedding added between; then attention. Sums are scaled by √½."""

    def __init__(
        self, c_in: int, c_out: int, embedding: int, attends: bool = False, resample: str = "",
        taps: Sequence[float] = (1, 1),
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm0 = _group_norm(c_in)
        self.conv0 = Conv(c_in, c_out, resample=resample, taps=taps)
        self.affine = nn.Linear(embedding, c_out)
        self.norm1 = _group_norm(c_out)
        self.conv1 = Conv(c_out, c_out)
        same = c_in == c_out and not resample
        self.skip = None if same else Conv(c_in, c_out, 1, resample, taps)
        self.attends = attends
        if attends:
            self.norm2 = _group_norm(c_out)
            self.qkv = Conv(c_out, 3 * c_out, 1)
            self.proj = Conv(c_out, c_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        h = F.silu(self.norm1(h + self.affine(embedding)[:, :, None, None]))
        h = math.sqrt(0.5) * (self.conv1(h) + (x if self.skip is None else self.skip(x)))
        return math.sqrt(0.5) * (h + self._attention(h)) if self.attends else h

    def _attention(self, h: Tensor) -> Tensor:
        n, c, height, width = h.shape
        # query, key and value of a channel lie beside each other: [N, 3C, H, W] -> three of [N, 1 head, HW, C]
        q, k, v = self.qkv(self.norm2(h)).reshape(n, 1, c, 3, height * width).permute(3, 0, 1, 4, 2)
        return self.proj(F.scaled_dot_product_attention(q, k, v).mT.reshape(n, c, height, width))


class Fourier(nn.Module):
    """Sines and cosines at random frequencies, which are kept with the weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(channels // 2))

    def forward(self, noise: Tensor) -> Tensor:
        angles = 2 * math.pi * noise[:, None] * self.freqs.double()
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class SongUNet(nn.Module):
    """F = SongUNet(x, noise, labels): a network that does not know what it predicts.

    image_size:  pixels per side
    channels:    of the image, and of F
    classes:     how many labels it was trained on; 0 for none
    base:        channels, over which `multipliers` are
    multipliers: channels of each level over base; each level halves the size
    blocks:      residual blocks per level (one more on the way up)
    attention:   sizes that have it; the middle always has it
    embedding:   of the noise level, "positional" or "fourier"
    width:       channels of that embedding over base
    depth:       channels of what the blocks are given over base
    residual:    whether the shrunken image is added to the features on the way down
    taps:        of the filter that resamples
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        classes: int = 0,
        base: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        embedding: str = "positional",
        width: int = 1,
        depth: int = 4,
        residual: bool = False,
        taps: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        if embedding not in EMBEDDINGS:
            raise ValueError(f"model.embedding={embedding} is unknown: choose {' or '.join(EMBEDDINGS)}.")
        self.classes, self.noise_channels = classes, base * width
        self.map_noise = Fourier(self.noise_channels) if embedding == "fourier" else None
        self.map_label = nn.Linear(classes, self.noise_channels) if classes else None
        self.map_layer0 = nn.Linear(self.noise_channels, base * depth)
        self.map_layer1 = nn.Linear(base * depth, base * depth)

        def block(c_in: int, c_out: int, attends: bool = False, resample: str = "") -> Block:
            return Block(c_in, c_out, base * depth, attends, resample, taps)

        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        sizes = [image_size >> level for level in range(len(multipliers))]
        skips, c, image = [base], base, channels
        for level, (size, multiplier) in enumerate(zip(sizes, multipliers, strict=True)):
            at, out = f"{size}x{size}", base * multiplier
            if level == 0:
                self.enc[f"{at}_conv"] = Conv(channels, base)
            else:
                self.enc[f"{at}_down"] = block(c, c, resample="down")
                skips.append(c)
                if residual:
                    self.enc[f"{at}_aux_residual"] = ConvDown(image, c, taps)
                    image = c
            for i in range(blocks):
                self.enc[f"{at}_block{i}"] = block(c, out, size in attention)
                skips.append(out)
                c = out
        for level, (size, multiplier) in reversed(list(enumerate(zip(sizes, multipliers, strict=True)))):
            at, out = f"{size}x{size}", base * multiplier
            if level == len(sizes) - 1:
                self.dec[f"{at}_in0"] = block(c, c, attends=True)
                self.dec[f"{at}_in1"] = block(c, c)
            else:
                self.dec[f"{at}_up"] = block(c, c, resample="up")
            for i in range(blocks + 1):
                self.dec[f"{at}_block{i}"] = block(c + skips.pop(), out, i == blocks and size in attention)
                c = out
        self.dec[f"{at}_aux_norm"] = _group_norm(c)
        self.dec[f"{at}_aux_conv"] = Conv(c, channels)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """x: [N, C, H, W]; noise: float [N], c_noise; labels: int64 [N], or None for no label. Returns F, like x."""
        embedding = self._embedding(noise, labels, x.dtype)
        h = image = x
        skips: list[Tensor] = []
        for name, layer in self.enc.items():
            if name.endswith("aux_residual"):
                h = image = skips[-1] = math.sqrt(0.5) * (h + layer(image))
            else:
                h = layer(h, embedding) if isinstance(layer, Block) else layer(h)
                skips.append(h)
        for name, layer in self.dec.items():
            if isinstance(layer, Block):
                h = layer(torch.cat([h, skips.pop()], dim=1) if "_block" in name else h, embedding)
            else:
                h = F.silu(layer(h)) if name.endswith("aux_norm") else layer(h)
        return h

    def _embedding(self, noise: Tensor, labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        positional = self.map_noise is None
        found = timestep_embedding(noise, self.noise_channels) if positional else self.map_noise(noise.double())
        found = found.to(dtype)
        if self.map_label is not None:  # no label is the vector 0
            one_hot = found.new_zeros(len(found), self.classes)
            if labels is not None:
                one_hot = F.one_hot(labels, self.classes).to(dtype)
            found = found + self.map_label(one_hot * math.sqrt(self.classes))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(found))))


class Preconditioned(nn.Module):
    """eps = Preconditioned(x, t, labels): a `SongUNet` F with EDM's preconditioning (Karras et al. 2022, table 1).

        c_in = 1/√(σ² + σ_d²)                      σ = √((1−ᾱ_t)/ᾱ_t)
        F    = net(c_in x_EDM, ln σ/4, labels)     x_EDM = √(1 + σ²) x
        eps  = σ c_in² √(1 + σ²) x − σ_d c_in F

    The last line is (x_EDM − D)/σ with their D, after σ is cancelled: nothing is lost where σ is small.

    betas:       float [T], as for ForwardProcess, or a process, as is `EDM`
    sigma_data:  σ_d, the standard deviation of the data
    Others, and labels, as for `SongUNet`.
    """

    def __init__(self, betas: Tensor | ForwardProcess, sigma_data: float = 0.5, **network: Any) -> None:
        super().__init__()
        self.model = SongUNet(**network)
        self.process, self.sigma_data = process_of(betas), sigma_data
        self.channels, self.image_size = network["channels"], network["image_size"]

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        signal, noise = self.process.roots(t)
        sigma = noise / signal
        c_in = torch.rsqrt(sigma**2 + self.sigma_data**2)

        def by(factor: Tensor) -> Tensor:
            return factor.to(x.dtype).view(-1, 1, 1, 1)

        output = self.model(by(c_in / signal) * x, sigma.log() / 4, labels)  # √(1 + σ²) is 1/√ᾱ
        return by(sigma * c_in**2 / signal) * x - by(self.sigma_data * c_in) * output

"""improved-diffusion's network as Nichol & Dhariwal (2021) describe it, over a dictionary of weights with its names.

Written down plainly, for tests, in float64: the first call makes the weights.
"""

import math

import torch
from torch.nn import functional as F


class Nichol:
    def __init__(self, size=32, channels=3, base=32, multipliers=(1, 2), blocks=1, attention=(16,), heads=4, **more):
        self.size, self.channels, self.base, self.multipliers = size, channels, base, multipliers
        self.blocks, self.attention, self.heads = blocks, attention, heads
        self.scale_shift, self.learned = more.get("scale_shift", True), more.get("learned", True)
        self.classes = more.get("classes", 0)
        self.weights, self.generator = {}, torch.Generator().manual_seed(0)
        labels = torch.zeros(1).long() if self.classes else None
        self(torch.zeros(1, channels, size, size).double(), torch.zeros(1).double(), labels)

    def weight(self, name, *shape):
        if name not in self.weights:
            spread = 0.1 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
            drawn = torch.randn(*shape, generator=self.generator) * spread
            self.weights[name] = drawn + (1 if len(shape) == 1 and name.endswith("weight") else 0)
        return self.weights[name].double()

    def conv(self, name, x, out, kernel=3, **more):
        w, b = self.weight(f"{name}.weight", out, x.shape[1], kernel, kernel), self.weight(f"{name}.bias", out)
        return F.conv2d(x, w, b, padding=kernel // 2, **more)

    def linear(self, name, x, out, *, last=()):
        w, b = self.weight(f"{name}.weight", out, x.shape[1], *last), self.weight(f"{name}.bias", out)
        return torch.einsum("oc,nc...->no...", w.reshape(out, -1), x) + b.reshape(-1, *[1] * (x.ndim - 2))

    def norm(self, name, x):
        groups = x.reshape(len(x), 32, -1)
        spread = torch.sqrt(groups.var(2, unbiased=False, keepdim=True) + 1e-5)
        y = ((groups - groups.mean(2, keepdim=True)) / spread).reshape(x.shape)
        scale, shift = (self.weight(f"{name}.{kind}", x.shape[1]) for kind in ("weight", "bias"))
        along = (-1,) + (1,) * (x.ndim - 2)
        return y * scale.reshape(along) + shift.reshape(along)

    def block(self, name, x, e, out):
        h = self.conv(f"{name}.in_layers.2", F.silu(self.norm(f"{name}.in_layers.0", x)), out)
        shown = self.linear(f"{name}.emb_layers.1", F.silu(e), out * (2 if self.scale_shift else 1))[:, :, None, None]
        if self.scale_shift:
            h = self.norm(f"{name}.out_layers.0", h) * (1 + shown[:, :out]) + shown[:, out:]
        else:
            h = self.norm(f"{name}.out_layers.0", h + shown)
        h = self.conv(f"{name}.out_layers.3", F.silu(h), out)
        return h + (x if out == x.shape[1] else self.conv(f"{name}.skip_connection", x, out, 1))

    def attend(self, name, x):
        c = x.shape[1]
        flat = x.flatten(2)
        qkv = self.linear(f"{name}.qkv", self.norm(f"{name}.norm", flat), 3 * c, last=(1,))
        one, found = c // self.heads, []
        for head in range(self.heads):
            q, k, v = (qkv[:, (3 * head + part) * one : (3 * head + part + 1) * one] for part in range(3))
            weights = torch.softmax(torch.einsum("ncq,nck->nqk", q, k) / one**0.5, dim=2)
            found.append(torch.einsum("nqk,nck->ncq", weights, v))
        return x + self.linear(f"{name}.proj_out", torch.cat(found, 1), c, last=(1,)).reshape(x.shape)

    def __call__(self, x, t, labels=None):
        """All that the network gives; t as it is embedded."""
        half = self.base // 2
        angles = t.double()[:, None] * 10000 ** (-torch.arange(half).double() / half)
        e = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1), 4 * self.base)
        e = self.linear("time_embed.2", F.silu(e), 4 * self.base)
        if self.classes:
            e = e + self.weight("label_emb.weight", self.classes, 4 * self.base)[labels]
        h = self.conv("input_blocks.0.0", x, self.base)
        skips, i, last = [h], 1, len(self.multipliers) - 1
        for level, m in enumerate(self.multipliers):
            for _ in range(self.blocks):
                h = self.block(f"input_blocks.{i}.0", h, e, m * self.base)
                h = self.attend(f"input_blocks.{i}.1", h) if self.size >> level in self.attention else h
                skips.append(h)
                i += 1
            if level < last:
                h = self.conv(f"input_blocks.{i}.0.op", h, h.shape[1], stride=2)
                skips.append(h)
                i += 1
        h = self.block("middle_block.0", h, e, h.shape[1])
        h = self.block("middle_block.2", self.attend("middle_block.1", h), e, h.shape[1])
        i = 0
        for level in range(last, -1, -1):
            attends = self.size >> level in self.attention
            for j in range(self.blocks + 1):
                h = self.block(
                    f"output_blocks.{i}.0", torch.cat([h, skips.pop()], 1), e, self.multipliers[level] * self.base
                )
                h = self.attend(f"output_blocks.{i}.1", h) if attends else h
                if level and j == self.blocks:
                    wide = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
                    h = self.conv(f"output_blocks.{i}.{1 + attends}.conv", wide, h.shape[1])
                i += 1
        h = F.silu(self.norm("out.0", h))
        return self.conv("out.2", h, self.channels * (2 if self.learned else 1))

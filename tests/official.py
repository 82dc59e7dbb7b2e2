"""The network of the official DDPM and DDIM repositories as PyTorch has it there: its names and its arithmetic.

Written down plainly, for tests: what a checkpoint of that repository holds, and what its network gives.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


class Block(nn.Module):
    def __init__(self, c_in, c_out, embedding):
        super().__init__()
        self.norm1, self.conv1 = norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.temb_proj = nn.Linear(embedding, c_out)
        self.norm2, self.conv2 = norm(c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x, temb):
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = norm(c)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        n, c, h, w = x.shape
        y = self.norm(x)
        q, k, v = (layer(y).reshape(n, c, h * w) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(torch.bmm(q.mT, k) * c**-0.5, dim=2)
        return x + self.proj_out(torch.bmm(v, weights.mT).reshape(n, c, h, w))


class Sampling(nn.Module):
    def __init__(self, c, up):
        super().__init__()
        self.up, self.conv = up, nn.Conv2d(c, c, 3, padding=1 if up else 0, stride=1 if up else 2)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))


class Official(nn.Module):
    def __init__(self, size=32, channels=3, ch=128, ch_mult=(1, 2), blocks=1, attention=(16,)):
        super().__init__()
        self.ch, self.blocks = ch, blocks
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(ch, 4 * ch), nn.Linear(4 * ch, 4 * ch)])
        self.conv_in = nn.Conv2d(channels, ch, 3, padding=1)
        self.down, widths, c = nn.ModuleList(), [ch], ch
        for i, m in enumerate(ch_mult):
            level = nn.Module()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks):
                level.block.append(Block(c, ch * m, 4 * ch))
                c = ch * m
                widths.append(c)
                if size // 2**i in attention:
                    level.attn.append(Attention(c))
            if i < len(ch_mult) - 1:
                level.downsample = Sampling(c, up=False)
                widths.append(c)
            self.down.append(level)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1, self.mid.block_2 = Block(c, c, 4 * ch), Attention(c), Block(c, c, 4 * ch)
        self.up = nn.ModuleList()
        for i, m in reversed(list(enumerate(ch_mult))):
            level = nn.Module()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks + 1):
                level.block.append(Block(c + widths.pop(), ch * m, 4 * ch))
                c = ch * m
                if size // 2**i in attention:
                    level.attn.append(Attention(c))
            if i:
                level.upsample = Sampling(c, up=True)
            self.up.insert(0, level)
        self.norm_out, self.conv_out = norm(c), nn.Conv2d(c, channels, 3, padding=1)

    def forward(self, x, t):
        half = self.ch // 2
        angles = t.float()[:, None] * torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))[None]
        temb = self.temb.dense[0](torch.cat([angles.sin(), angles.cos()], dim=1))
        temb = self.temb.dense[1](F.silu(temb))
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            for j, block in enumerate(level.block):
                h = block(h, temb)
                h = level.attn[j](h) if len(level.attn) else h
                skips.append(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
                skips.append(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h, temb)), temb)
        for level in reversed(self.up):
            for j, block in enumerate(level.block):
                h = block(torch.cat([h, skips.pop()], dim=1), temb)
                h = level.attn[j](h) if len(level.attn) else h
            h = level.upsample(h) if hasattr(level, "upsample") else h
        return self.conv_out(F.silu(self.norm_out(h)))

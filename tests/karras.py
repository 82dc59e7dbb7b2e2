"""DDPM++ and NCSN++ with EDM's preconditioning, as Karras et al. (2022) describe them, and a pickle in EDM's layout.

Written down plainly, for tests, over a dictionary of weights with EDM's names: the first call makes the weights.
"""

import contextlib
import math
import pickle
import sys
import types
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F


class Karras:
    """float64. kind: "ddpm++" or "ncsn++"."""

    def __init__(self, kind, size=16, channels=3, base=16, multipliers=(1, 2), blocks=1, attention=(8,), classes=0):
        self.kind, self.size, self.channels, self.base = kind, size, channels, base
        self.multipliers, self.blocks, self.attention, self.classes = multipliers, blocks, attention, classes
        self.taps = [1, 1] if kind == "ddpm++" else [1, 3, 3, 1]
        self.weights, self.generator = OrderedDict(), torch.Generator().manual_seed(0)
        self.buffers = set()
        self.denoise(torch.zeros(1, channels, size, size).double(), torch.ones(1).double())
        self.weights["map_augment.weight"] = self.random(self.noise_channels, 9)  # unused when sampling

    @property
    def noise_channels(self):
        return self.base * (1 if self.kind == "ddpm++" else 2)

    def kwargs(self):
        ncsn = self.kind == "ncsn++"
        return {
            "img_resolution": self.size, "in_channels": self.channels, "out_channels": self.channels,
            "label_dim": self.classes, "model_channels": self.base, "channel_mult": list(self.multipliers),
            "num_blocks": self.blocks, "attn_resolutions": list(self.attention), "dropout": 0.13, "augment_dim": 9,
            "embedding_type": "fourier" if ncsn else "positional", "channel_mult_noise": 2 if ncsn else 1,
            "encoder_type": "residual" if ncsn else "standard", "decoder_type": "standard",
            "resample_filter": self.taps,
        }  # fmt: skip

    def random(self, *shape):
        spread = 0.1 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
        return (torch.randn(*shape, generator=self.generator) * spread).double()

    def weight(self, name, *shape):
        if name not in self.weights:
            self.weights[name] = self.random(*shape) + (1 if "norm" in name and name.endswith("weight") else 0)
        return self.weights[name]

    def conv(self, name, x, out, kernel=3):
        w, b = self.weight(f"{name}.weight", out, x.shape[1], kernel, kernel), self.weight(f"{name}.bias", out)
        return F.conv2d(x, w, b, padding=kernel // 2)

    def linear(self, name, x, out):
        return x @ self.weight(f"{name}.weight", out, x.shape[1]).T + self.weight(f"{name}.bias", out)

    def norm(self, name, x):
        c = x.shape[1]
        n = x.reshape(len(x), min(32, c // 4), -1)
        n = (n - n.mean(2, keepdim=True)) / torch.sqrt(n.var(2, unbiased=False, keepdim=True) + 1e-6)
        scale, shift = self.weight(f"{name}.weight", c), self.weight(f"{name}.bias", c)
        return n.reshape(x.shape) * scale[:, None, None] + shift[:, None, None]

    def filter(self, name):
        f = torch.tensor(self.taps).double()
        self.weights.setdefault(f"{name}.resample_filter", torch.outer(f, f)[None, None] / f.sum() ** 2)
        self.buffers.add(f"{name}.resample_filter")
        return f / f.sum()

    def smooth(self, x, line):
        """A valid correlation with the filter, along each side in turn."""
        for side in (2, 3):
            n = x.shape[side] - len(line) + 1
            x = sum(float(tap) * x.narrow(side, k, n) for k, tap in enumerate(line))
        return x

    def down(self, name, x):
        line = self.filter(name)
        margin = (len(line) - 2) // 2
        return self.smooth(F.pad(x, (margin,) * 4), line)[:, :, ::2, ::2]

    def up(self, name, x):
        line = 2 * self.filter(name)
        n, c, h, w = x.shape
        wide = x.new_zeros(n, c, 2 * h, 2 * w)
        wide[:, :, ::2, ::2] = x
        before, after = len(line) // 2, (len(line) - 1) // 2
        return self.smooth(F.pad(wide, (before, after, before, after)), line)

    def block(self, name, x, e, out, attends=False, move=None):
        h = F.silu(self.norm(f"{name}.norm0", x))
        moved = x if move is None else move(f"{name}.skip", x)
        h = self.conv(f"{name}.conv0", h if move is None else move(f"{name}.conv0", h), out)
        h = h + self.linear(f"{name}.affine", e, out)[:, :, None, None]
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", h)), out)
        plain = out == x.shape[1] and move is None
        h = (h + (x if plain else self.conv(f"{name}.skip", moved, out, 1))) / 2**0.5
        if not attends:
            return h
        qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm2", h), 3 * out, 1).flatten(2)
        q, k, v = (qkv[:, i::3] for i in range(3))
        attention = torch.softmax(torch.einsum("ncq,nck->nqk", q, k) / out**0.5, dim=2)
        a = torch.einsum("nqk,nck->ncq", attention, v).reshape(h.shape)
        return (h + self.conv(f"{name}.proj", a, out, 1)) / 2**0.5

    def embedding(self, noise, labels):
        half = self.noise_channels // 2
        if self.kind == "ddpm++":
            angles = noise[:, None] * 10000 ** -(torch.arange(half).double() / (half - 1))
        else:
            self.buffers.add("map_noise.freqs")
            angles = 2 * math.pi * noise[:, None] * self.weight("map_noise.freqs", half)
        e = torch.cat([angles.sin(), angles.cos()], dim=1)
        if self.classes:
            hot = torch.zeros(len(e), self.classes).double()
            if labels is not None:
                hot[torch.arange(len(e)), labels] = 1
            e = e + self.linear("map_label", hot * self.classes**0.5, self.noise_channels)
        for layer in ("map_layer0", "map_layer1"):
            e = F.silu(self.linear(layer, e, 4 * self.base))
        return e

    def output(self, x, noise, labels):
        e = self.embedding(noise, labels)
        h = image = x
        skips, last = [], len(self.multipliers) - 1
        for level, m in enumerate(self.multipliers):
            at = f"enc.{self.size >> level}x{self.size >> level}"
            if level == 0:
                h = self.conv(f"{at}_conv", h, self.base)
            else:
                h = self.block(f"{at}_down", h, e, h.shape[1], move=self.down)
                if self.kind == "ncsn++":  # padded once, then convolved and shrunken
                    line = self.filter(f"{at}_aux_residual")
                    w = self.weight(f"{at}_aux_residual.weight", h.shape[1], image.shape[1], 3, 3)
                    wide = F.conv2d(F.pad(image, (2, 2, 2, 2)), w)
                    b = self.weight(f"{at}_aux_residual.bias", h.shape[1])
                    image = (h + self.smooth(wide, line)[:, :, ::2, ::2] + b[:, None, None]) / 2**0.5
                    h = image
            skips.append(h)
            for i in range(self.blocks):
                h = self.block(f"{at}_block{i}", h, e, self.base * m, self.size >> level in self.attention)
                skips.append(h)
        for level in range(last, -1, -1):
            size, m = self.size >> level, self.multipliers[level]
            at = f"dec.{size}x{size}"
            if level == last:
                h = self.block(f"{at}_in0", h, e, h.shape[1], attends=True)
                h = self.block(f"{at}_in1", h, e, h.shape[1])
            else:
                h = self.block(f"{at}_up", h, e, h.shape[1], move=self.up)
            for i in range(self.blocks + 1):
                attends = i == self.blocks and size in self.attention
                h = self.block(f"{at}_block{i}", torch.cat([h, skips.pop()], 1), e, self.base * m, attends)
        return self.conv(f"{at}_aux_conv", F.silu(self.norm(f"{at}_aux_norm", h)), self.channels)

    def denoise(self, x, sigma, labels=None):
        """The denoised image (Karras et al. 2022, Eq. 7 and table 1); x as they have it."""
        s = sigma.view(-1, 1, 1, 1)
        total = s**2 + 0.5**2
        output = self.output(x / total.sqrt(), sigma.log() / 4, labels)
        return 0.5**2 / total * x + s * 0.5 / total.sqrt() * output


SOURCE = "open('ran', 'w').close()  # what EDM's pickles carry: the source of their module"


class Kept(nn.Module):
    """A module as EDM's training pickles it: by the name of its class, its source and its state."""

    def __init__(self, kind, **state):
        super().__init__()
        self.kind = kind
        self._init_args, self._init_kwargs = (), {}
        vars(self).update(state)

    def __reduce__(self):
        state = {name: value for name, value in vars(self).items() if name != "kind"}
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.kind, "state": state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def as_modules(weights, buffers, kind, **state):
    net = Kept(kind, **state)
    for name, tensor in weights.items():
        *parents, leaf = name.split(".")
        at = net
        for parent in parents:
            if parent not in at._modules:
                at.add_module(parent, nn.ModuleDict() if parent in ("enc", "dec") else Kept("Layer"))
            at = at._modules[parent]
        if name in buffers:
            at.register_buffer(leaf, tensor.float())
        else:
            at.register_parameter(leaf, nn.Parameter(tensor.float()))
    return net


@contextlib.contextmanager
def edm_code():
    """A module that is there only while a pickle is written."""
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("this must not run")

    _reconstruct_persistent_obj.__module__, _reconstruct_persistent_obj.__qualname__ = (
        "torch_utils.persistence",
        "_reconstruct_persistent_obj",
    )
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules |= {"torch_utils": package, "torch_utils.persistence": module}
    try:
        yield
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]


def pickled(net, path, kind="EDMPrecond", inner="SongUNet", kwargs=None, **more):
    """Write what EDM's training writes: the average, and what is of no use when sampling."""
    kwargs = net.kwargs() | (kwargs or {})
    average = Kept(kind, img_resolution=net.size, img_channels=net.channels, label_dim=net.classes, sigma_data=0.5)
    average._init_kwargs = {"img_resolution": net.size, "model_type": inner}
    average.model = as_modules(net.weights, net.buffers, inner, _init_kwargs=kwargs)
    content = {"ema": average, "loss_fn": Kept("EDMLoss"), "augment_pipe": Kept("AugmentPipe"), **more}
    with edm_code(), path.open("wb") as file:
        pickle.dump(content, file)

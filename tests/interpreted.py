"""Run as a program: `cuda`, or `cpu` with TRITON_INTERPRET=1, which carries Triton's kernels out number by number.

Prints one line a comparison: its name and how far apart the two sides are, relative to the second.
"""

import itertools
import sys

import torch
from torch.nn import functional as F

from skipstone import UNet, VelocityUNet, noise, rng
from skipstone.kernels import random
from skipstone.kernels.norm import group_norm
from skipstone.kernels.project import project
from skipstone.kernels.taps import convolve_to_few
from skipstone.kernels.total import total
from skipstone.network import fused
from skipstone.rng import Stream

BETAS = noise.linear()


def images(n, channels, side):
    return torch.randn(n, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()


def report(name, ours, reference, inputs):
    """Compare outputs, and the gradients of a random function of them."""
    apart = [(o - r).norm() / r.norm() for o, r in zip(ours, reference, strict=True)]
    weights = [torch.randn_like(o) for o in ours]
    gradients = [torch.autograd.grad(side, inputs, weights) for side in (ours, reference)]
    apart += [(o - r).norm() / r.norm() for o, r in zip(*gradients, strict=True)]
    print(name, max(apart).item())


def norms():
    """Groups that fill their lanes and groups of 12 that do not, sides that are no power of two, every pending sum."""
    for c, skip, side, add, shift, silu in [
        (16, 0, 8, False, None, True),
        (32, 16, 4, False, "channels", True),
        (256, 128, 4, False, "channels", True),
        (24, 0, 7, True, "channels", True),
        (16, 0, 8, False, "samples", True),
        (32, 32, 8, False, None, False),
    ]:
        norm = torch.nn.GroupNorm(32 if c == 256 else 4, c + skip)
        torch.nn.init.normal_(norm.weight, 1)
        x, other, added = (
            images(2, c, side),
            images(2, skip, side) if skip else None,
            images(2, c, side) if add else None,
        )
        size = {None: None, "channels": (c + skip,), "samples": (2, c)}[shift]
        by = None if size is None else torch.randn(size, requires_grad=True)
        ours = group_norm(x, norm, skip=other, add=added, shift=by, silu=silu)
        r = torch.cat([x, other], 1) if skip else x
        r = r if added is None else r + added
        r = r if by is None else r + (by if by.ndim == 2 else by[None])[:, :, None, None]
        y = F.silu(norm(r)) if silu else norm(r)
        inputs = [v for v in (x, other, added, by, norm.weight, norm.bias) if v is not None]
        report(f"norm-{c}-{skip}-{side}-{add}-{shift}", ours if add else (ours,), (y, r) if add else (y,), inputs)
    table, rows = torch.randn(9, 40)[:, 8:24], torch.tensor([7])
    x, norm = images(2, 16, 8), torch.nn.GroupNorm(4, 16)
    ours, plain = (
        group_norm(x, norm, shift=table, rows=rows.expand(2)),
        group_norm(x, norm, shift=table[rows.expand(2)]),
    )
    print("norm-rows", (ours - plain).abs().max().item())


def dropout():
    """The mask is the same forwards and backwards, another for another seed, and keeps what it should."""
    norm, x = torch.nn.GroupNorm(4, 16), images(4, 16, 8)
    whole, y, again, other = (
        group_norm(x, norm, dropout=p, seed=torch.tensor([seed]))
        for p, seed in ((0.0, 0), (0.25, 5), (0.25, 5), (0.25, 6))
    )
    kept = y != 0
    print("dropout-scale", ((y - whole / 0.75) * kept).abs().max().item())
    print("dropout-share", abs(kept.float().mean().item() - 0.75) / 2000)  # of 4096
    print("dropout-seed", float(not torch.equal(y, again) or torch.equal(y, other)))
    weights = torch.randn_like(y)
    (ours,) = torch.autograd.grad(y, x, weights)
    (reference,) = torch.autograd.grad(whole, x, weights * kept / 0.75)
    print("dropout-backward", ((ours - reference).norm() / reference.norm()).item())


def products():
    residual, a, skip = images(2, 24, 5), images(2, 16, 5), images(2, 40, 5)
    weight = torch.randn(24, 56, requires_grad=True)
    for other, part in ((None, weight[:, :16]), (skip, weight)):
        x = a if other is None else torch.cat([a, other], 1)
        for bias in (None, torch.randn(24, requires_grad=True)):
            reference = residual + F.conv2d(x, part[:, :, None, None], bias)
            inputs = [v for v in (residual, a, weight, other, bias) if v is not None]
            report("project", (project(residual, a, part, other, bias),), (reference,), inputs)
    x, weight, bias = images(2, 12, 6), torch.randn(3, 12, 3, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    report("taps", (convolve_to_few(x, weight, bias),), (F.conv2d(x, weight, bias, padding=1),), [x, weight, bias])
    x, add, bias = images(2, 12, 5), images(2, 12, 5), torch.randn(12, requires_grad=True)
    report("total", (total(x, add, bias),), (x + add + bias[:, None, None],), [x, add, bias])
    weight, x = torch.randn(7, 12, 3, 3), images(2, 12, 5).detach()
    ours = F.conv_transpose2d(x, fused.doubled(weight), stride=2, padding=1)
    reference = F.conv2d(F.interpolate(x, scale_factor=2), weight, padding=1)
    print("doubled", ((ours - reference).norm() / reference.norm()).item())


def numbers():
    index = torch.tensor([0, 5, 2**31 + 3])
    for seed, step in itertools.product((0, 2**63 + 12345, -4), (5, torch.tensor([3, 1, 999]), torch.tensor([4]))):
        plainly = (index.cpu(), step if isinstance(step, int) else step.cpu())  # on a GPU philox.py uses the kernel
        ours = random.words(rng.as_key(seed), Stream.STEP, index, step, 101)
        plain = rng.words(seed, Stream.STEP, *plainly, 101)
        print("words", float(not torch.equal(ours.cpu(), plain)))
        for shape in ((3, 8, 8), (1, 3, 3)):
            ours = random.normal(rng.as_key(seed), Stream.STEP, index, shape, step, torch.float64)
            plain = rng.normal(seed, Stream.STEP, plainly[0], shape, plainly[1], torch.float64)
            print("normal", (ours.cpu() - plain).abs().max().item())
    key = torch.tensor([rng.as_key(-4)])
    print("key", float(not torch.equal(random.words(key, 1, index, 3, 7), random.words(-4, 1, index, 3, 7))))


def networks():
    """Attention, a level without, odd sizes that cannot be doubled, patches, both heads: outputs and all gradients."""
    for net in (
        UNet(16, 3, base=16, multipliers=(1, 2, 2), blocks=2, attention=(8,)),
        VelocityUNet(14, 1, base=8, multipliers=(1, 2), blocks=1, attention=(7,), patch=2, betas=BETAS),
        UNet(7, 1, base=8, multipliers=(1, 2), blocks=1, attention=()),
        UNet(8, 1, base=8, multipliers=(1, 2), blocks=1, attention=(), classes=3),
    ):
        net = net.to(sys.argv[1], memory_format=torch.channels_last)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        x, t = torch.randn(2, net.channels, net.image_size, net.image_size), torch.tensor([3, 999])
        fused.compile_ahead(net, None)  # where there is a GPU
        labels = torch.tensor([1, net.null_label]) if net.classes else None
        reference = net(x, t, labels)
        report("network", (fused.predict(net, x, t, None, labels),), (reference,), list(net.parameters()))
        sampler = fused.Sampler(net, 1000, torch.float32)
        print("sampler", ((sampler(x, t, labels) - reference).norm() / reference.norm()).item())
        real = t.double() * 0.999
        between = net(x, real, labels)
        print("sampler_at_real_times", ((sampler(x, real, labels) - between).norm() / between.norm()).item())
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.1)
        sampler.refresh(net)
        print("refreshed", ((sampler(x, t) - net(x, t)).norm() / net(x, t).norm()).item())


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_default_device(sys.argv[1])
    torch.backends.cudnn.allow_tf32 = False
    for part in (norms, dropout, products, numbers, networks):
        part()

"""Group norm and SiLU in one pass over memory, with what stands beside them in the network.

    r = x + add + shift                 the residual sum, or the time embedding and a bias
    y = dropout(silu(GroupNorm(r)))

A program holds some groups of one sample with all their pixels in registers: it reads its input once and writes once,
where separate statistics would read twice. The input may be the concatenation [x, skip], which is never written down.
The plain form of each is what unet.py says in torch's own words; mathematics in float32.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from skipstone.kernels import launch

# Numbers that a program holds of its input, and a thread of them: as measured (docs/performance.md)
_PLAIN, _ADDED, _BACKWARD = (16384, 64), (32768, 64), (16384, 32)
_LANES = 32  # channels of a program, beyond which it would only be longer


@dataclass(frozen=True)
class _Tiling:
    """A program's share: all pixels, padded to a power of two, times `groups` groups of `width` channels, padded."""

    pixels: int
    groups: int
    width: int
    warps: int

    @classmethod
    def of(cls, pixels: int, channels: int, groups: int, limits: tuple[int, int]) -> "_Tiling":
        most, a_thread = limits
        padded = triton.next_power_of_2(pixels)
        width = triton.next_power_of_2(channels // groups)
        share = 1
        while groups % (2 * share) == 0 and 2 * share * width <= _LANES and 2 * share * width * padded <= most:
            share *= 2
        warps = min(max(padded * width * share // (32 * a_thread), 1), 16)
        return cls(padded, share, width, warps)


@triton.jit
def _channels(first_group, GROUPS: tl.constexpr, WIDTH: tl.constexpr, PER_GROUP: tl.constexpr):
    """Of every lane: its channel, and whether it is one and not padding."""
    lane = tl.arange(0, GROUPS * WIDTH)
    if WIDTH == PER_GROUP:
        channel, real = first_group * PER_GROUP + lane, tl.full((GROUPS * WIDTH,), 1, tl.int1)
    else:
        channel, real = (first_group + lane // WIDTH) * PER_GROUP + lane % WIDTH, lane % WIDTH < PER_GROUP
    return channel, real


@triton.jit
def _over_group(by_lane, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """The sum of [lanes] over each group: [lanes], the same for all lanes of a group."""
    by_group = tl.sum(tl.reshape(by_lane, (GROUPS, WIDTH)), axis=1)
    return tl.reshape(tl.broadcast_to(by_group[:, None], (GROUPS, WIDTH)), (GROUPS * WIDTH,))


@triton.jit
def _sigmoid(z, ROUGH: tl.constexpr):
    """ROUGH: by the hardware's tanh, whose error of 2^-11 is less than what rounding to 16 bits leaves."""
    if ROUGH:
        half = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [0.5 * z], tl.float32, is_pure=True, pack=1)
        value = 0.5 * half + 0.5
    else:
        value = tl.sigmoid(z)
    return value


@triton.jit
def _read(x, skip, n, pixel, channel, there, PIXELS, C1: tl.constexpr, C2: tl.constexpr, first, end):
    """A tile of [x, skip] along the channels first … end − 1, which few programs have in both."""
    at_x, at_skip = (n * PIXELS + pixel) * C1 + channel, (n * PIXELS + pixel) * C2 + channel - C1
    if C2 == 0:
        tile = tl.load(x + at_x, mask=there, other=0.0)
    elif end <= C1:
        tile = tl.load(x + at_x, mask=there, other=0.0)
    elif first >= C1:
        tile = tl.load(skip + at_skip, mask=there, other=0.0)
    else:
        left = tl.load(x + at_x, mask=there & (channel < C1), other=0.0)
        right = tl.load(skip + at_skip, mask=there & (channel >= C1), other=0.0)
        tile = tl.where(channel < C1, left, right)
    return tile


@triton.jit
def _write(x, skip, tile, n, pixel, channel, there, PIXELS, C1: tl.constexpr, C2: tl.constexpr, first, end):
    """The tile to where `_read` would find it."""
    at_x, at_skip = (n * PIXELS + pixel) * C1 + channel, (n * PIXELS + pixel) * C2 + channel - C1
    if C2 == 0:
        tl.store(x + at_x, tile, mask=there)
    elif end <= C1:
        tl.store(x + at_x, tile, mask=there)
    elif first >= C1:
        tl.store(skip + at_skip, tile, mask=there)
    else:
        tl.store(x + at_x, tile, mask=there & (channel < C1))
        tl.store(skip + at_skip, tile, mask=there & (channel >= C1))


@triton.jit
def _forward(
    x, skip, add, shift, rows, weight, bias, y, r, mean_out, rstd_out, seed,
    PIXELS, shift_stride,
    C1: tl.constexpr, C2: tl.constexpr, GROUP: tl.constexpr, EPS: tl.constexpr, SILU: tl.constexpr, P: tl.constexpr,
    ADD: tl.constexpr, SHIFT: tl.constexpr, ROWS: tl.constexpr, KEEP: tl.constexpr, STATS: tl.constexpr,
    PADDED: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = C1 + C2
    n = tl.program_id(1).to(tl.int64)
    first_group = tl.program_id(0) * GROUPS
    first, end = first_group * GROUP, (first_group + GROUPS) * GROUP
    channel, real = _channels(first_group, GROUPS, WIDTH, GROUP)
    pixel = tl.arange(0, PADDED)[:, None]
    if FULL:  # a mask of ones costs nothing
        there = tl.full((PADDED, GROUPS * WIDTH), 1, tl.int1)
    else:
        there = (pixel < PIXELS) & real[None, :]

    v = _read(x, skip, n, pixel, channel[None, :], there, PIXELS, C1, C2, first, end).to(tl.float32)
    if ADD:
        v += tl.load(add + (n * PIXELS + pixel) * C + channel[None, :], mask=there, other=0.0).to(tl.float32)
    if SHIFT:
        row = tl.load(rows + n) if ROWS else n
        v += tl.load(shift + row * shift_stride + channel, mask=real, other=0.0).to(tl.float32)[None, :]
        v = tl.where(there, v, 0.0)
    if KEEP:
        tl.store(r + (n * PIXELS + pixel) * C + channel[None, :], v.to(r.dtype.element_ty), mask=there)

    count = PIXELS * GROUP
    mean = _over_group(tl.sum(v, axis=0), GROUPS, WIDTH) / count
    centred = tl.where(there, v - mean[None, :], 0.0)
    rstd = tl.rsqrt(_over_group(tl.sum(centred * centred, axis=0), GROUPS, WIDTH) / count + EPS)
    if STATS:
        lane = tl.arange(0, GROUPS * WIDTH)
        at = n * (C // GROUP) + first_group + lane // WIDTH
        tl.store(mean_out + at, mean, mask=lane % WIDTH == 0)
        tl.store(rstd_out + at, rstd, mask=lane % WIDTH == 0)
    scale = rstd * tl.load(weight + channel, mask=real, other=0.0)
    z = centred * scale[None, :] + tl.load(bias + channel, mask=real, other=0.0)[None, :]
    if SILU:
        z = z * _sigmoid(z, y.dtype.element_ty != tl.float32)
    at = (n * PIXELS + pixel) * C + channel[None, :]
    if P > 0:
        z = tl.where(tl.rand(tl.load(seed), at) < P, 0.0, z / (1 - P))
    tl.store(y + at, z.to(y.dtype.element_ty), mask=there)


@triton.jit
def _backward(
    dy, dr, x, skip, shift, weight, bias, mean_in, rstd_in, dx, dskip, dweight, dbias, dshift, seed,
    PIXELS, shift_stride,
    C1: tl.constexpr, C2: tl.constexpr, GROUP: tl.constexpr, SILU: tl.constexpr, P: tl.constexpr,
    SHIFT: tl.constexpr, DSHIFT: tl.constexpr, DR: tl.constexpr,
    PADDED: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = C1 + C2
    n = tl.program_id(1).to(tl.int64)
    first_group = tl.program_id(0) * GROUPS
    first, end = first_group * GROUP, (first_group + GROUPS) * GROUP
    channel, real = _channels(first_group, GROUPS, WIDTH, GROUP)
    pixel = tl.arange(0, PADDED)[:, None]
    if FULL:  # a mask of ones costs nothing
        there = tl.full((PADDED, GROUPS * WIDTH), 1, tl.int1)
    else:
        there = (pixel < PIXELS) & real[None, :]
    at = (n * PIXELS + pixel) * C + channel[None, :]

    v = _read(x, skip, n, pixel, channel[None, :], there, PIXELS, C1, C2, first, end).to(tl.float32)
    if SHIFT:
        v += tl.load(shift + n * shift_stride + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    group = n * (C // GROUP) + first_group + tl.arange(0, GROUPS * WIDTH) // WIDTH
    rstd = tl.load(rstd_in + group)
    w = tl.load(weight + channel, mask=real, other=0.0)
    normed = tl.where(there, (v - tl.load(mean_in + group)[None, :]) * rstd[None, :], 0.0)

    dz = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
    if P > 0:
        dz = tl.where(tl.rand(tl.load(seed), at) < P, 0.0, dz / (1 - P))
    if SILU:
        z = normed * w[None, :] + tl.load(bias + channel, mask=real, other=0.0)[None, :]
        s = _sigmoid(z, dx.dtype.element_ty != tl.float32)
        dz *= s * (1 + z * (1 - s))
    of_weight, of_bias = tl.sum(dz * normed, axis=0), tl.sum(dz, axis=0)
    tl.store(dweight + n * C + channel, of_weight, mask=real)
    tl.store(dbias + n * C + channel, of_bias, mask=real)

    # r̂ = (r − mean)·rstd:  dr = rstd·(dr̂ − ⟨dr̂⟩ − r̂⟨dr̂·r̂⟩), averages over the group, and dr̂ = w dz
    count = PIXELS * GROUP
    average = _over_group(w * of_bias, GROUPS, WIDTH) / count
    along = _over_group(w * of_weight, GROUPS, WIDTH) / count
    dv = rstd[None, :] * (dz * w[None, :] - average[None, :] - normed * along[None, :])
    if DR:  # what flows back past the norm
        dv += tl.load(dr + at, mask=there, other=0.0).to(tl.float32)
    if DSHIFT:
        tl.store(dshift + n * C + channel, tl.sum(tl.where(there, dv, 0.0), axis=0), mask=real)
    _write(dx, dskip, dv.to(dx.dtype.element_ty), n, pixel, channel[None, :], there, PIXELS, C1, C2, first, end)


def _rows_of(x: Tensor) -> Tensor:
    """The tensor in the one layout that the kernels read: channels last."""
    return x.contiguous(memory_format=torch.channels_last)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, skip: Tensor | None, add: Tensor | None, shift: Tensor | None, weight: Tensor,
        bias: Tensor, rows: Tensor | None, groups: int, eps: float, silu: bool, dropout: float, seed: Tensor | None,
    ) -> tuple[Tensor, Tensor] | Tensor:  # fmt: skip
        x, skip, add = (None if v is None else _rows_of(v) for v in (x, skip, add))
        n, c1, height, width = x.shape
        c2 = 0 if skip is None else skip.shape[1]
        channels, pixels = c1 + c2, height * width
        tiling = _Tiling.of(pixels, channels, groups, _PLAIN if add is None else _ADDED)
        y = torch.empty((n, channels, height, width), device=x.device, dtype=x.dtype, memory_format=torch.channels_last)
        r = x if add is None else torch.empty_like(x)
        train = any(ctx.needs_input_grad)
        mean, rstd = torch.empty((2, n, groups) if train else (2, 0), device=x.device)
        if shift is not None and shift.stride(-1) != 1:
            shift = shift.contiguous()
        rows = None if rows is None else rows.contiguous()
        stride = 0 if shift is None or shift.ndim == 1 else shift.stride(0)
        per_group = channels // groups
        launch(_forward, (groups // tiling.groups, n),
            x, skip, add, shift, rows, weight, bias, y, r, mean, rstd, seed, pixels, stride,
            C1=c1, C2=c2, GROUP=per_group, EPS=eps, SILU=silu, P=dropout,
            ADD=add is not None, SHIFT=shift is not None, ROWS=rows is not None, KEEP=add is not None, STATS=train,
            PADDED=tiling.pixels, GROUPS=tiling.groups, WIDTH=tiling.width,
            FULL=tiling.pixels == pixels and tiling.width == per_group, num_warps=tiling.warps,
        )  # fmt: skip
        if train:
            # where r was kept, the shift is in it
            ctx.save_for_backward(r, skip, shift if add is None else None, weight, bias, mean, rstd, seed)
            ctx.settings = groups, silu, dropout, stride if add is None else 0
            ctx.added, ctx.shifted = add is not None, None if shift is None else shift.ndim
        ctx.set_materialize_grads(False)
        return y if add is None else (y, r)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dr: Tensor | None = None) -> tuple[Tensor | None, ...]:
        r, skip, shift, weight, bias, mean, rstd, seed = ctx.saved_tensors
        groups, silu, dropout, stride = ctx.settings
        dy = _rows_of(dy)
        dr = None if dr is None else _rows_of(dr)
        n, c1, height, width = r.shape
        channels, pixels = dy.shape[1], height * width
        tiling = _Tiling.of(pixels, channels, groups, _BACKWARD)
        dx, dskip = torch.empty_like(r), None if skip is None else torch.empty_like(skip)
        sums = torch.empty((3, n, channels), device=r.device)
        per_group = channels // groups
        launch(_backward, (groups // tiling.groups, n),
            dy, dr, r, skip, shift, weight, bias, mean, rstd, dx, dskip, *sums, seed, pixels, stride,
            C1=c1, C2=channels - c1, GROUP=per_group, SILU=silu, P=dropout,
            SHIFT=shift is not None, DSHIFT=ctx.shifted is not None, DR=dr is not None,
            PADDED=tiling.pixels, GROUPS=tiling.groups, WIDTH=tiling.width,
            FULL=tiling.pixels == pixels and tiling.width == per_group, num_warps=tiling.warps,
        )  # fmt: skip
        # over the samples; a shift of each sample keeps its own
        dshift = None if ctx.shifted is None else sums[2]
        if ctx.shifted == 1:
            dweight, dbias, dshift = sums.sum(1)
        else:
            dweight, dbias = sums[:2].sum(1)
        return (
            dx, dskip, dx if ctx.added else None, dshift, dweight, dbias, None, None, None, None, None, None,
        )  # fmt: skip


def group_norm(
    x: Tensor,
    norm: torch.nn.GroupNorm,
    *,
    skip: Tensor | None = None,
    add: Tensor | None = None,
    shift: Tensor | None = None,
    rows: Tensor | None = None,
    silu: bool = True,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor] | Tensor:
    """y = dropout(silu(norm(r))) with r = x + add + shift, differentiable. Returns y, or (y, r) where `add` is given.

    x: float [N, C1, H, W], read and written channels_last.  skip: [N, C2, H, W], concatenated behind x for the norm.
    add: like x.  shift: float [C], [N, C], or with `rows` (int64 [N]) a table whose row rows[n] is sample n's.
    silu: whether SiLU follows.  dropout: its probability, 0 for none.  seed: int64 [1], its draw's.
    Does not differentiate through a table with rows. Needs a GPU, or Triton's interpreter.
    """
    return _GroupNorm.apply(
        x, skip, add, shift, norm.weight, norm.bias, rows, norm.num_groups, norm.eps, silu, dropout, seed
    )

"""The two kernels of norm.py: a program holds some groups of one sample with all their pixels in registers.

A tile is [pixels, lanes], both powers of two; its lanes are neighbouring channels, of as many whole groups as fit, and
what of it is beyond the pixels or the groups is zero.
"""

import triton
import triton.language as tl


@triton.jit
def _spread(by_group, LANES: tl.constexpr, GROUP: tl.constexpr):
    """[groups] as [lanes]."""
    return tl.reshape(tl.broadcast_to(by_group[:, None], (LANES // GROUP, GROUP)), (LANES,))


@triton.jit
def _over_lanes(by_lane, LANES: tl.constexpr, GROUP: tl.constexpr):
    """Of [lanes], each lane's sum over its group: [lanes]."""
    if LANES % GROUP == 0:
        by_group = tl.sum(tl.reshape(by_lane, (LANES // GROUP, GROUP)), axis=1)
        sums = _spread(by_group, LANES, GROUP)
    else:  # a group that is no power of two
        group = tl.arange(0, LANES) // GROUP
        sums = tl.sum(tl.where(group[:, None] == group[None, :], by_lane[None, :], 0.0), axis=1)
    return sums


@triton.jit
def _over_tile(tile, PADDED: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr):
    """Of [pixels, lanes], each lane's sum over its group and all pixels: [lanes]."""
    if LANES % GROUP == 0:  # lanes first, for a thread holds those of a group itself
        by_group = tl.sum(tl.sum(tl.reshape(tile, (PADDED, LANES // GROUP, GROUP)), axis=2), axis=0)
        sums = _spread(by_group, LANES, GROUP)
    else:
        sums = _over_lanes(tl.sum(tile, axis=0), LANES, GROUP)
    return sums


@triton.jit
def _tanh(h, ROUGH: tl.constexpr):
    """ROUGH: the hardware's, off by 2^-11: in h·tanh(h) a quarter of what rounding h to bfloat16 may leave."""
    if ROUGH:
        value = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [h], tl.float32, is_pure=True, pack=1)
    else:
        value = 2 * tl.sigmoid(2 * h) - 1
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
def _place(PIXELS, C: tl.constexpr, PADDED: tl.constexpr, LANES: tl.constexpr, REAL: tl.constexpr, FULL: tl.constexpr):
    """Which tile a program has: its sample, its first channel, each row's pixel, each lane's channel and whether it is
    one of a group, and of each number whether it is there and where."""
    n, first = tl.program_id(1).to(tl.int64), tl.program_id(0) * REAL
    lane, pixel = tl.arange(0, LANES), tl.arange(0, PADDED)[:, None]
    channel, real = first + lane, lane < REAL
    # a mask of ones costs nothing
    there = tl.full((PADDED, LANES), 1, tl.int1) if FULL else (pixel < PIXELS) & real[None, :]
    return n, first, pixel, channel, real, there, (n * PIXELS + pixel) * C + channel[None, :]


@triton.jit
def norm_forward(
    x, skip, add, shift, rows, weight, bias, y, r, mean_out, rstd_out, seed,
    PIXELS, shift_stride,
    C1: tl.constexpr, C2: tl.constexpr, GROUP: tl.constexpr, EPS: tl.constexpr, SILU: tl.constexpr, P: tl.constexpr,
    ADD: tl.constexpr, SHIFT: tl.constexpr, ROWS: tl.constexpr, KEEP: tl.constexpr, STATS: tl.constexpr,
    PADDED: tl.constexpr, LANES: tl.constexpr, REAL: tl.constexpr, FULL: tl.constexpr,
) -> None:  # fmt: skip
    C: tl.constexpr = C1 + C2
    n, first, pixel, channel, real, there, at = _place(PIXELS, C, PADDED, LANES, REAL, FULL)

    v = _read(x, skip, n, pixel, channel[None, :], there, PIXELS, C1, C2, first, first + REAL).to(tl.float32)
    if ADD:
        v += tl.load(add + at, mask=there, other=0.0).to(tl.float32)
    # r = v + by: what is the same for all pixels need not be added to each, but to what is taken from each
    by = tl.zeros((LANES,), tl.float32)
    if SHIFT:
        row = tl.load(rows + n) if ROWS else n
        by = tl.load(shift + row * shift_stride + channel, mask=real, other=0.0).to(tl.float32)
    if KEEP:
        tl.store(r + at, (v + by[None, :]).to(r.dtype.element_ty), mask=there)

    count = PIXELS * GROUP
    mean = (_over_tile(v, PADDED, LANES, GROUP) + PIXELS * _over_lanes(by, LANES, GROUP)) / count
    centred = tl.where(there, v - (mean - by)[None, :], 0.0)
    rstd = tl.rsqrt(_over_tile(centred * centred, PADDED, LANES, GROUP) / count + EPS)
    if STATS:
        group = n * (C // GROUP) + channel // GROUP
        tl.store(mean_out + group, mean, mask=real & (channel % GROUP == 0))
        tl.store(rstd_out + group, rstd, mask=real & (channel % GROUP == 0))

    scale = rstd * tl.load(weight + channel, mask=real, other=0.0)
    base = tl.load(bias + channel, mask=real, other=0.0)
    if SILU:  # silu(z) = h + h tanh(h), of h = z / 2
        h = centred * (0.5 * scale)[None, :] + (0.5 * base)[None, :]
        z = h * _tanh(h, y.dtype.element_ty != tl.float32) + h
    else:
        z = centred * scale[None, :] + base[None, :]
    if P > 0:
        z = tl.where(tl.rand(tl.load(seed), at) < P, 0.0, z / (1 - P))
    tl.store(y + at, z.to(y.dtype.element_ty), mask=there)


@triton.jit
def norm_backward(
    dy, dr, x, skip, shift, weight, bias, mean_in, rstd_in, dx, dskip, dweight, dbias, dshift, seed,
    PIXELS, shift_stride,
    C1: tl.constexpr, C2: tl.constexpr, GROUP: tl.constexpr, SILU: tl.constexpr, P: tl.constexpr,
    SHIFT: tl.constexpr, DSHIFT: tl.constexpr, DR: tl.constexpr,
    PADDED: tl.constexpr, LANES: tl.constexpr, REAL: tl.constexpr, FULL: tl.constexpr,
) -> None:  # fmt: skip
    C: tl.constexpr = C1 + C2
    n, first, pixel, channel, real, there, at = _place(PIXELS, C, PADDED, LANES, REAL, FULL)

    group = n * (C // GROUP) + channel // GROUP
    rstd = tl.load(rstd_in + group, mask=real, other=0.0)
    offset = tl.load(mean_in + group, mask=real, other=0.0)
    if SHIFT:
        offset -= tl.load(shift + n * shift_stride + channel, mask=real, other=0.0).to(tl.float32)
    v = _read(x, skip, n, pixel, channel[None, :], there, PIXELS, C1, C2, first, first + REAL).to(tl.float32)
    normed = tl.where(there, (v - offset[None, :]) * rstd[None, :], 0.0)

    dz = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
    if P > 0:
        dz = tl.where(tl.rand(tl.load(seed), at) < P, 0.0, dz / (1 - P))
    w = tl.load(weight + channel, mask=real, other=0.0)
    if SILU:  # silu'(z) = (1 + t) (1 + h (1 − t)) / 2, of h = z / 2 and t = tanh(h)
        base = tl.load(bias + channel, mask=real, other=0.0)
        h = normed * (0.5 * w)[None, :] + (0.5 * base)[None, :]
        t = _tanh(h, dx.dtype.element_ty != tl.float32)
        dz *= (0.5 + 0.5 * t) * (1 + h * (1 - t))
    of_weight, of_bias = tl.sum(dz * normed, axis=0), tl.sum(dz, axis=0)
    tl.store(dweight + n * C + channel, of_weight, mask=real)
    tl.store(dbias + n * C + channel, of_bias, mask=real)

    # r̂ = (r − mean)·rstd:  dr = rstd·(dr̂ − ⟨dr̂⟩ − r̂⟨dr̂·r̂⟩), averages over the group, and dr̂ = w dz
    count = PIXELS * GROUP
    average = _over_lanes(w * of_bias, LANES, GROUP) / count
    along = _over_lanes(w * of_weight, LANES, GROUP) / count
    dv = rstd[None, :] * (dz * w[None, :] - average[None, :] - normed * along[None, :])
    if DR:  # what flows back past the norm
        dv += tl.load(dr + at, mask=there, other=0.0).to(tl.float32)
    if DSHIFT:
        tl.store(dshift + n * C + channel, tl.sum(tl.where(there, dv, 0.0), axis=0), mask=real)
    _write(
        dx, dskip, dv.to(dx.dtype.element_ty), n, pixel, channel[None, :], there, PIXELS, C1, C2, first, first + REAL
    )

"""The two kernels of norm.py: a program holds some groups of one sample with all their pixels in registers.

A group of channels is held as PIECES tiles [pixels, GROUPS lanes of WIDTH channels each], for a tile is a power of two
wide and a group need not be.
"""

import triton
import triton.language as tl


@triton.jit
def _channels(first_group, piece, GROUPS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr):
    """The channel of every lane of a piece."""
    lane = tl.arange(0, GROUPS * WIDTH)
    if WIDTH == GROUP:  # the same, but the compiler sees that they are neighbours
        channel = first_group * GROUP + lane
    else:
        channel = (first_group + lane // WIDTH) * GROUP + piece * WIDTH + lane % WIDTH
    return channel


@triton.jit
def _spread(by_group, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """[groups] as [lanes], the same for all lanes of a group."""
    return tl.reshape(tl.broadcast_to(by_group[:, None], (GROUPS, WIDTH)), (GROUPS * WIDTH,))


@triton.jit
def _over_lanes(by_lane, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """The sum of [lanes] over each group: [groups]."""
    return tl.sum(tl.reshape(by_lane, (GROUPS, WIDTH)), axis=1)


@triton.jit
def _over_tile(tile, PADDED: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """The sum of [pixels, lanes] over each group: [groups]. Lanes first, for a thread holds those of a group itself."""
    return tl.sum(tl.sum(tl.reshape(tile, (PADDED, GROUPS, WIDTH)), axis=2), axis=0)


@triton.jit
def _tanh(h, ROUGH: tl.constexpr):
    """ROUGH: the hardware's, whose error of 2^-11 is less than what rounding to 16 bits leaves."""
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
def norm_forward(
    x, skip, add, shift, rows, weight, bias, y, r, mean_out, rstd_out, seed,
    PIXELS, shift_stride,
    C1: tl.constexpr, C2: tl.constexpr, GROUP: tl.constexpr, EPS: tl.constexpr, SILU: tl.constexpr, P: tl.constexpr,
    ADD: tl.constexpr, SHIFT: tl.constexpr, ROWS: tl.constexpr, KEEP: tl.constexpr, STATS: tl.constexpr,
    PADDED: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, PIECES: tl.constexpr, FULL: tl.constexpr,
) -> None:  # fmt: skip
    C: tl.constexpr = C1 + C2
    n = tl.program_id(1).to(tl.int64)
    first_group = tl.program_id(0) * GROUPS
    first, end = first_group * GROUP, (first_group + GROUPS) * GROUP
    pixel = tl.arange(0, PADDED)[:, None]
    there = tl.full((PADDED, 1), 1, tl.int1) if FULL else pixel < PIXELS  # a mask of ones costs nothing
    shift_row = (tl.load(rows + n) if ROWS else n) * shift_stride

    # r = v + by: what is the same for all pixels need not be added to each, but to what is taken from each
    values, offsets = (), ()
    total = tl.zeros((GROUPS,), tl.float32)
    for piece in tl.static_range(PIECES):
        channel = _channels(first_group, piece, GROUPS, WIDTH, GROUP)
        at = (n * PIXELS + pixel) * C + channel[None, :]
        v = _read(x, skip, n, pixel, channel[None, :], there, PIXELS, C1, C2, first, end).to(tl.float32)
        by = tl.zeros((GROUPS * WIDTH,), tl.float32)
        if ADD:
            v += tl.load(add + at, mask=there, other=0.0).to(tl.float32)
        if SHIFT:
            by = tl.load(shift + shift_row + channel).to(tl.float32)
        if KEEP:
            tl.store(r + at, (v + by[None, :]).to(r.dtype.element_ty), mask=there)
        total += _over_tile(v, PADDED, GROUPS, WIDTH) + PIXELS * _over_lanes(by, GROUPS, WIDTH)
        values += (v,)
        offsets += (by,)

    count = PIXELS * GROUP
    mean = total / count
    centres = ()
    squares = tl.zeros((GROUPS,), tl.float32)
    for piece in tl.static_range(PIECES):
        offset = _spread(mean, GROUPS, WIDTH) - offsets[piece]
        centred = tl.where(there, values[piece] - offset[None, :], 0.0)
        squares += _over_tile(centred * centred, PADDED, GROUPS, WIDTH)
        centres += (centred,)
    rstd = tl.rsqrt(squares / count + EPS)
    if STATS:
        at = n * (C // GROUP) + first_group + tl.arange(0, GROUPS)
        tl.store(mean_out + at, mean)
        tl.store(rstd_out + at, rstd)

    for piece in tl.static_range(PIECES):
        channel = _channels(first_group, piece, GROUPS, WIDTH, GROUP)
        at = (n * PIXELS + pixel) * C + channel[None, :]
        scale, base = _spread(rstd, GROUPS, WIDTH) * tl.load(weight + channel), tl.load(bias + channel)
        if SILU:  # silu(z) = h + h tanh(h), of h = z / 2
            h = centres[piece] * (0.5 * scale)[None, :] + (0.5 * base)[None, :]
            z = h * _tanh(h, y.dtype.element_ty != tl.float32) + h
        else:
            z = centres[piece] * scale[None, :] + base[None, :]
        if P > 0:
            z = tl.where(tl.rand(tl.load(seed), at) < P, 0.0, z / (1 - P))
        tl.store(y + at, z.to(y.dtype.element_ty), mask=there)


@triton.jit
def norm_backward(
    dy, dr, x, skip, shift, weight, bias, mean_in, rstd_in, dx, dskip, dweight, dbias, dshift, seed,
    PIXELS, shift_stride,
    C1: tl.constexpr, C2: tl.constexpr, GROUP: tl.constexpr, SILU: tl.constexpr, P: tl.constexpr,
    SHIFT: tl.constexpr, DSHIFT: tl.constexpr, DR: tl.constexpr,
    PADDED: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, PIECES: tl.constexpr, FULL: tl.constexpr,
) -> None:  # fmt: skip
    C: tl.constexpr = C1 + C2
    n = tl.program_id(1).to(tl.int64)
    first_group = tl.program_id(0) * GROUPS
    first, end = first_group * GROUP, (first_group + GROUPS) * GROUP
    pixel = tl.arange(0, PADDED)[:, None]
    there = tl.full((PADDED, 1), 1, tl.int1) if FULL else pixel < PIXELS  # a mask of ones costs nothing
    group = n * (C // GROUP) + first_group + tl.arange(0, GROUPS * WIDTH) // WIDTH
    mean, rstd = tl.load(mean_in + group), tl.load(rstd_in + group)

    normals, gradients = (), ()
    along, average = tl.zeros((GROUPS,), tl.float32), tl.zeros((GROUPS,), tl.float32)
    for piece in tl.static_range(PIECES):
        channel = _channels(first_group, piece, GROUPS, WIDTH, GROUP)
        at = (n * PIXELS + pixel) * C + channel[None, :]
        offset = mean
        if SHIFT:
            offset -= tl.load(shift + n * shift_stride + channel).to(tl.float32)
        v = _read(x, skip, n, pixel, channel[None, :], there, PIXELS, C1, C2, first, end).to(tl.float32)
        normed = tl.where(there, (v - offset[None, :]) * rstd[None, :], 0.0)
        dz = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
        if P > 0:
            dz = tl.where(tl.rand(tl.load(seed), at) < P, 0.0, dz / (1 - P))
        w = tl.load(weight + channel)
        if SILU:  # silu'(z) = (1 + t) (1 + h (1 − t)) / 2, of h = z / 2 and t = tanh(h)
            h = normed * (0.5 * w)[None, :] + (0.5 * tl.load(bias + channel))[None, :]
            t = _tanh(h, dx.dtype.element_ty != tl.float32)
            dz *= (0.5 + 0.5 * t) * (1 + h * (1 - t))
        of_weight, of_bias = tl.sum(dz * normed, axis=0), tl.sum(dz, axis=0)
        tl.store(dweight + n * C + channel, of_weight)
        tl.store(dbias + n * C + channel, of_bias)
        along += _over_lanes(w * of_weight, GROUPS, WIDTH)
        average += _over_lanes(w * of_bias, GROUPS, WIDTH)
        normals += (normed,)
        gradients += (dz,)

    # r̂ = (r − mean)·rstd:  dr = rstd·(dr̂ − ⟨dr̂⟩ − r̂⟨dr̂·r̂⟩), averages over the group, and dr̂ = w dz
    count = PIXELS * GROUP
    along, average = _spread(along, GROUPS, WIDTH) / count, _spread(average, GROUPS, WIDTH) / count
    for piece in tl.static_range(PIECES):
        channel = _channels(first_group, piece, GROUPS, WIDTH, GROUP)
        dn = gradients[piece] * tl.load(weight + channel)[None, :]
        dv = rstd[None, :] * (dn - average[None, :] - normals[piece] * along[None, :])
        if DR:  # what flows back past the norm
            at = (n * PIXELS + pixel) * C + channel[None, :]
            dv += tl.load(dr + at, mask=there, other=0.0).to(tl.float32)
        if DSHIFT:
            tl.store(dshift + n * C + channel, tl.sum(tl.where(there, dv, 0.0), axis=0))
        _write(dx, dskip, dv.to(dx.dtype.element_ty), n, pixel, channel[None, :], there, PIXELS, C1, C2, first, end)

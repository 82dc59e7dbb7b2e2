"""Every pixel's 3×3 neighbourhood in a row: what makes the first convolution, of few channels, a matrix product."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from skipstone.kernels import launch

_TILE = 8192


@triton.jit
def _patches(x, out, H, W, PIXELS, C: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr):
    """out[n, i, j, 9 c + 3 a + b] = x[n, c, i + a − 1, j + b − 1]; the columns past 9 C are zero."""
    n = tl.program_id(1).to(tl.int64)
    pixel = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    column = tl.arange(0, LANES)[None, :]
    c, tap = column // 9, column % 9
    i, j = pixel // W + tap // 3 - 1, pixel % W + tap % 3 - 1
    inside = (pixel < PIXELS) & (c < C) & (i >= 0) & (i < H) & (j >= 0) & (j < W)
    values = tl.load(x + (n * C + c) * PIXELS + i * W + j, mask=inside, other=0.0)
    there = (pixel < PIXELS) & (column < WIDTH)
    tl.store(out + (n * PIXELS + pixel) * WIDTH + column, values.to(out.dtype.element_ty), mask=there)


def patches(x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """[N, H W, width] of `dtype`: the neighbourhoods, 9 C numbers each, then zeros. x: float [N, C, H, W], contiguous.

    Not differentiable: nothing is to be learned from a gradient of the noise.
    """
    x = x.detach().contiguous()
    n, c, height, w = x.shape
    pixels, lanes = height * w, triton.next_power_of_2(width)
    out = torch.empty(n, pixels, width, device=x.device, dtype=dtype)
    block = max(1, _TILE // lanes)
    grid = (triton.cdiv(pixels, block), n)
    launch(_patches, grid, x, out, height, w, pixels, C=c, WIDTH=width, LANES=lanes, BLOCK=block)
    return out

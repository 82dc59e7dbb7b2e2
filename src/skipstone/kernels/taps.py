"""A 3×3 convolution to very few channels, in float32: one matrix product for all nine taps, then their shifted sum.

Libraries pad the three channels of a picture to a tile of many, and take many times as long in float32.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from skipstone.kernels import launch

_BLOCK = 256


@triton.jit
def _taps_forward(
    taps, bias, out, H, W, PIXELS, C: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """out[n, c, i, j] = bias[c] + Σ taps[n, i + a − 1, j + b − 1, (3 a + b) C + c]."""
    n = tl.program_id(1).to(tl.int64)
    pixel = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    c = tl.arange(0, LANES)[None, :]
    i, j = pixel // W, pixel % W
    total = tl.zeros((BLOCK, LANES), tl.float32) + tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
    for a in tl.static_range(3):
        for b in tl.static_range(3):
            y, x = i + a - 1, j + b - 1
            inside = (pixel < PIXELS) & (y >= 0) & (y < H) & (x >= 0) & (x < W) & (c < C)
            at = (n * PIXELS + y * W + x) * WIDTH + (3 * a + b) * C + c
            total += tl.load(taps + at, mask=inside, other=0.0)
    tl.store(out + (n * C + c) * PIXELS + pixel, total, mask=(pixel < PIXELS) & (c < C))


@triton.jit
def _taps_backward(grad, out, H, W, PIXELS, C: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """out[n, y, x, (3 a + b) C + c] = grad[n, c, y − a + 1, x − b + 1]; the columns past 9 C are zero."""
    n = tl.program_id(1).to(tl.int64)
    pixel = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    tap, c = column // C, column % C
    i, j = pixel // W - tap // 3 + 1, pixel % W - tap % 3 + 1
    inside = (pixel < PIXELS) & (tap < 9) & (i >= 0) & (i < H) & (j >= 0) & (j < W)
    values = tl.load(grad + (n * C + c) * PIXELS + i * W + j, mask=inside, other=0.0)
    tl.store(out + (n * PIXELS + pixel) * WIDTH + column, values.to(out.dtype.element_ty), mask=pixel < PIXELS)


def _matrix(weight: Tensor, width: int) -> Tensor:
    """[C, C_in, 3, 3] as [width, C_in], rows (3 a + b) C + c, the rest zero."""
    rows = weight.permute(2, 3, 0, 1).flatten(0, 2)
    return F.pad(rows, (0, 0, 0, width - len(rows)))


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        n, _, height, width = x.shape
        channels = len(weight)
        columns = triton.next_power_of_2(9 * channels)
        pixels = x.permute(0, 2, 3, 1).contiguous().flatten(0, 2)
        matrix = _matrix(weight, columns).to(x.dtype)
        taps = _product(pixels, matrix.T)
        out = torch.empty((n, channels, height, width), device=x.device)
        lanes, pixels_of = triton.next_power_of_2(channels), height * width
        grid = (triton.cdiv(pixels_of, _BLOCK), n)
        launch(_taps_forward, grid,
            taps, bias, out, height, width, pixels_of, C=channels, LANES=lanes, WIDTH=columns, BLOCK=_BLOCK
        )  # fmt: skip
        ctx.save_for_backward(pixels, matrix)
        ctx.shape = n, channels, height, width
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels, matrix = ctx.saved_tensors
        n, channels, height, width = ctx.shape
        columns = len(matrix)
        grad = grad.contiguous()
        dtaps = torch.empty((len(pixels), columns), device=grad.device, dtype=pixels.dtype)
        block = max(1, 4096 // columns)
        grid = (triton.cdiv(height * width, block), n)
        launch(_taps_backward, grid, grad, dtaps, height, width, height * width, C=channels, WIDTH=columns, BLOCK=block)
        dx = (dtaps @ matrix).view(n, height, width, -1).permute(0, 3, 1, 2)
        dweight = _product(dtaps.T, pixels)[: 9 * channels]
        return dx, dweight.view(3, 3, channels, -1).permute(2, 3, 0, 1), grad.sum((0, 2, 3))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, whatever their dtype."""
    return a @ b if a.dtype == torch.float32 else torch.mm(a, b, out_dtype=torch.float32)


def convolve_to_few(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The 3×3 convolution of x with padding 1, differentiable; sums and result are float32.

    x: float [N, C_in, H, W], read channels_last.  weight: float32 [C, C_in, 3, 3], C of at most 16, which is rounded
    to x's dtype.  bias: float32 [C].  Returns float32 [N, C, H, W].
    """
    return _Convolve.apply(x, weight, bias)

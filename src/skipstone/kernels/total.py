"""The residual sum by itself, x + add + bias, where no norm reads it."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from skipstone.kernels import launch

_BLOCK = 4096


@triton.jit
def _total(x, add, bias, out, SIZE, C, BIAS: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = at < SIZE
    v = tl.load(x + at, mask=there).to(tl.float32)
    if ADD:
        v += tl.load(add + at, mask=there).to(tl.float32)
    if BIAS:
        v += tl.load(bias + at % C, mask=there).to(tl.float32)
    tl.store(out + at, v.to(out.dtype.element_ty), mask=there)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, add: Tensor | None, bias: Tensor | None) -> Tensor:
        x, add = (None if v is None else v.contiguous(memory_format=torch.channels_last) for v in (x, add))
        out = torch.empty_like(x)
        grid = (triton.cdiv(x.numel(), _BLOCK),)
        flags = dict(BIAS=bias is not None, ADD=add is not None, BLOCK=_BLOCK)
        launch(_total, grid, x, add, bias, out, x.numel(), x.shape[1], **flags)
        ctx.given = add is not None, None if bias is None else bias.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        added, dtype = ctx.given
        return grad, grad if added else None, None if dtype is None else grad.sum((0, 2, 3), dtype=dtype)


def total(x: Tensor, add: Tensor | None, bias: Tensor | None) -> Tensor:
    """x + add + bias in one pass, summed in float32, differentiable. x, add: [N, C, H, W].  bias: [C]."""
    return x if add is None and bias is None else _Total.apply(x, add, bias)

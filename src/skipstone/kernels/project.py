"""The 1×1 convolutions that end on the residual stream: out = residual + [a, skip] Wᵀ + bias, in one pass."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from skipstone.kernels import launch

_CONFIG = dict(BLOCK_M=128, BLOCK_N=128, BLOCK_K=64, num_warps=4, num_stages=3)  # as measured
_CONFIG_32 = dict(BLOCK_M=64, BLOCK_N=64, BLOCK_K=32, num_warps=4, num_stages=2)  # float32 has no matrix units


@triton.jit
def _product(acc, a, weight, row, column, M, K: tl.constexpr, W_STRIDE: tl.constexpr, OFFSET: tl.constexpr,
             N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    k = tl.arange(0, BLOCK_K)
    for k0 in range(0, K, BLOCK_K):
        inner = k0 + k < K
        left = tl.load(a + row[:, None] * K + (k0 + k)[None, :], mask=(row < M)[:, None] & inner[None, :], other=0.0)
        right = tl.load(
            weight + column[None, :] * W_STRIDE + (OFFSET + k0 + k)[:, None],
            mask=(column < N)[None, :] & inner[:, None], other=0.0,
        )  # fmt: skip
        acc = tl.dot(left, right, acc, input_precision="ieee")  # float32 stays float32
    return acc


@triton.jit(do_not_specialize=["M"])  # it differs by batch
def _project(
    a, skip, weight, residual, bias, out, M,
    K1: tl.constexpr, K2: tl.constexpr, N: tl.constexpr,
    BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    columns: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0)
    row = (program // columns).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = program % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    there = (row < M)[:, None] & (column < N)[None, :]
    at = row[:, None] * N + column[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    acc = _product(acc, a, weight, row, column, M, K1, K1 + K2, 0, N, BLOCK_K)
    if K2 > 0:
        acc = _product(acc, skip, weight, row, column, M, K2, K1 + K2, K1, N, BLOCK_K)
    # last: begun with, the residual takes registers from the product (measured: a tenth slower)
    acc += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    if BIAS:
        acc += tl.load(bias + column, mask=column < N, other=0.0).to(tl.float32)[None, :]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=there)


def _matrix(x: Tensor) -> Tensor:
    """[N, C, H, W] as [N·H·W, C], a view of channels_last memory."""
    return x.permute(0, 2, 3, 1).contiguous().flatten(0, 2)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, a: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        residual = residual.contiguous(memory_format=torch.channels_last)
        left, right = _matrix(a), None if skip is None else _matrix(skip)
        weight = weight.contiguous()
        out = torch.empty_like(residual)
        rows, columns = len(left), len(weight)
        config = _CONFIG_32 if left.dtype == torch.float32 else _CONFIG
        config = {**config, "BLOCK_N": min(config["BLOCK_N"], max(16, triton.next_power_of_2(columns)))}
        grid = (triton.cdiv(rows, config["BLOCK_M"]) * triton.cdiv(columns, config["BLOCK_N"]),)
        launch(_project, grid,
            left, right, weight, residual, bias, out, rows,
            K1=left.shape[1], K2=0 if right is None else right.shape[1], N=columns, BIAS=bias is not None, **config,
        )  # fmt: skip
        ctx.save_for_backward(a, skip, weight)
        ctx.biased = bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, skip, weight = ctx.saved_tensors
        g, left = _matrix(grad), _matrix(a)
        da = g @ weight[:, : left.shape[1]]
        dskip, dweight = None, [g.T @ left]
        if skip is not None:
            right = _matrix(skip)
            dskip = _images(g @ weight[:, left.shape[1] :], skip)
            dweight.append(g.T @ right)
        dbias = g.sum(0, dtype=torch.float32) if ctx.biased else None
        return grad, _images(da, a), dskip, torch.cat(dweight, dim=1), dbias


def _images(matrix: Tensor, like: Tensor) -> Tensor:
    n, _, height, width = like.shape
    return matrix.view(n, height, width, -1).permute(0, 3, 1, 2)


def project(
    residual: Tensor, a: Tensor, weight: Tensor, skip: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """residual + conv1×1([a, skip]) + bias, differentiable.

    residual: float [N, C, H, W].  a: [N, K1, H, W].  skip: [N, K2, H, W].  weight: [C, K1 + K2] of their dtype.
    bias: [C].  All are read, and the result is, channels_last; sums are float32.
    """
    return _Project.apply(residual, a, skip, weight, bias)

"""Group norm and SiLU in one pass over memory, with what stands beside them in the network.

    r = x + add + shift                 the residual sum, or the time embedding and a bias
    y = dropout(silu(GroupNorm(r)))

The kernels (norm_tiles.py) read their input once and write once, where separate statistics would read twice. The input
may be the concatenation [x, skip], which is never written down. The plain form of each is what unet.py says in torch's
own words; mathematics in float32.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from skipstone.kernels import launch
from skipstone.kernels.norm_tiles import norm_backward, norm_forward

# Numbers that a program holds of its input, at most where a row has 16 bytes without that, and of a thread: as measured
_PLAIN, _ADDED, _BACKWARD = (16384, 32768, 64), (32768, 32768, 64), (16384, 16384, 32)
_LANES = 32  # channels of a program, beyond which it would only be longer
_VECTOR = 8  # channels that a thread reads at once, where a tile's rows are multiples of so many


@dataclass(frozen=True)
class _Tiling:
    """A program's share: all pixels and some groups of channels, each padded to a power of two."""

    pixels: int
    groups: int
    lanes: int
    warps: int

    @classmethod
    def of(cls, pixels: int, group: int, groups: int, limits: tuple[int, int, int]) -> "_Tiling":
        """For `groups` groups of `group` channels each. limits: one of those above."""
        enough, most, a_thread = limits
        padded = triton.next_power_of_2(pixels)

        def lanes(share: int) -> int:
            return triton.next_power_of_2(share * group)

        share = 1
        while groups % (2 * share) == 0 and lanes(2 * share) <= _LANES:
            if lanes(2 * share) * padded > (most if share * group % _VECTOR else enough):
                break
            share *= 2
        warps = max(padded * lanes(share) // (32 * a_thread), 1)
        return cls(padded, share, lanes(share), min(warps, 16))

    def constants(self, pixels: int, group: int) -> dict[str, int]:
        """What the kernels take of it."""
        real = self.groups * group
        full = (self.pixels, self.lanes) == (pixels, real)
        return dict(PADDED=self.pixels, LANES=self.lanes, REAL=real, FULL=full, num_warps=self.warps)


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
        group = channels // groups
        tiling = _Tiling.of(pixels, group, groups, _PLAIN if add is None else _ADDED)
        y = torch.empty((n, channels, height, width), device=x.device, dtype=x.dtype, memory_format=torch.channels_last)
        r = x if add is None else torch.empty_like(x)
        train = any(ctx.needs_input_grad)
        mean, rstd = torch.empty((2, n, groups) if train else (2, 0), device=x.device)
        if shift is not None and shift.stride(-1) != 1:
            shift = shift.contiguous()
        rows = None if rows is None else rows.contiguous()
        stride = 0 if shift is None or shift.ndim == 1 else shift.stride(0)
        launch(norm_forward, (groups // tiling.groups, n),
            x, skip, add, shift, rows, weight, bias, y, r, mean, rstd, seed, pixels, stride,
            C1=c1, C2=c2, GROUP=group, EPS=eps, SILU=silu, P=dropout,
            ADD=add is not None, SHIFT=shift is not None, ROWS=rows is not None, KEEP=add is not None, STATS=train,
            **tiling.constants(pixels, group),
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
        group = channels // groups
        tiling = _Tiling.of(pixels, group, groups, _BACKWARD)
        dx, dskip = torch.empty_like(r), None if skip is None else torch.empty_like(skip)
        sums = torch.empty((3, n, channels), device=r.device)
        launch(norm_backward, (groups // tiling.groups, n),
            dy, dr, r, skip, shift, weight, bias, mean, rstd, dx, dskip, *sums, seed, pixels, stride,
            C1=c1, C2=channels - c1, GROUP=group, SILU=silu, P=dropout,
            SHIFT=shift is not None, DSHIFT=ctx.shifted is not None, DR=dr is not None,
            **tiling.constants(pixels, group),
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

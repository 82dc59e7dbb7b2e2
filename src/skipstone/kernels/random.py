"""The numbers of rng.py from one kernel each, where torch would launch some hundred small ones.

The words are the same bits. The normals agree to the rounding of a logarithm. A key is the low 64 bits of a seed: an
int in −2^63 … 2^63−1, or int64 [1] on the device.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from skipstone.kernels import launch

_BLOCK = 1024


@triton.jit
def _word(key, step, sample, stream: tl.constexpr, at):
    """Word `at` of a sample; every block of the hash has four."""
    block = (at // 4).to(tl.uint32)
    c0, c1, c2, c3 = tl.philox(key, block, step.to(tl.uint32) + 0 * block, sample.to(tl.uint32) + 0 * block, stream)
    lane = at % 4
    return tl.where(lane < 2, tl.where(lane == 0, c0, c1), tl.where(lane == 2, c2, c3))


@triton.jit
def _unit(word):
    """In the open interval (0, 1)."""
    return (word.to(tl.float64) + 0.5) * 2.3283064365386963e-10


@triton.jit(do_not_specialize=["key", "step"])
def _words(key, step, index, out, COUNT, STREAM: tl.constexpr, KEYS: tl.constexpr, STEPS: tl.constexpr,
           BLOCK: tl.constexpr):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    seed = tl.load(key) if KEYS else key
    when = tl.load(step + n) if STEPS else step
    word = _word(seed, when, tl.load(index + n), STREAM, at)
    tl.store(out + n * COUNT + at, word.to(tl.int64), mask=at < COUNT)


@triton.jit(do_not_specialize=["key", "step"])
def _normal(key, step, index, out, SIZE, PAIRS, STREAM: tl.constexpr, KEYS: tl.constexpr, STEPS: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    n = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    seed = tl.load(key) if KEYS else key
    when = tl.load(step + n) if STEPS else step
    sample = tl.load(index + n)
    radius = tl.sqrt(-2.0 * tl.log(_unit(_word(seed, when, sample, STREAM, at))))
    angle = 6.283185307179586 * _unit(_word(seed, when, sample, STREAM, PAIRS + at))
    tl.store(out + n * SIZE + at, (radius * tl.cos(angle)).to(out.dtype.element_ty), mask=at < PAIRS)
    second = (radius * tl.sin(angle)).to(out.dtype.element_ty)
    tl.store(out + n * SIZE + PAIRS + at, second, mask=(at < PAIRS) & (PAIRS + at < SIZE))


def words(key: int | Tensor, stream: int, index: Tensor, step: int | Tensor, count: int) -> Tensor:
    """As `rng.words`, given the key."""
    index, step = index.contiguous(), _each(step, index)
    out = torch.empty(len(index), count, dtype=torch.int64, device=index.device)
    grid = (triton.cdiv(count, _BLOCK), len(index))
    launch(_words, grid, key, step, index, out, count, **_flags(key, stream, step))
    return out


def normal(
    key: int | Tensor, stream: int, index: Tensor, shape: tuple[int, ...], step: int | Tensor, dtype: torch.dtype
) -> Tensor:
    """As `rng.normal`, given the key."""
    index, step = index.contiguous(), _each(step, index)
    out = torch.empty(len(index), *shape, dtype=dtype, device=index.device)
    size = math.prod(shape)
    pairs = math.ceil(size / 2)
    grid = (triton.cdiv(pairs, _BLOCK), len(index))
    launch(_normal, grid, key, step, index, out, size, pairs, **_flags(key, stream, step))
    return out


def _each(step: int | Tensor, index: Tensor) -> int | Tensor:
    """A tensor of steps written out, one per sample."""
    return step.expand(len(index)).contiguous() if isinstance(step, Tensor) else step


def _flags(key: int | Tensor, stream: int, step: int | Tensor) -> dict:
    return dict(STREAM=int(stream), KEYS=isinstance(key, Tensor), STEPS=isinstance(step, Tensor), BLOCK=_BLOCK)

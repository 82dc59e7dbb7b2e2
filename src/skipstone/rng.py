"""Counter-based random numbers: every draw is a pure function of (seed, stream, index, step).

A sample's noise must not depend on its batch, on the other samples, on the number of devices or on what was drawn
before. A generator with state cannot promise that without a loop over samples. A counter-based one can, because each
number is the hash of its own address. The hash is Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3"). The normals are Box-Muller in float64, rounded once to the dtype that is asked for.

Numbers are equal bit for bit on one kind of device. Across kinds the last bit of a logarithm may differ. On a GPU one
kernel makes them (kernels/random.py), where the code below would launch some hundred small ones.
"""

import math
from enum import IntEnum
from typing import TypeVar

import torch
from torch import Tensor

from skipstone import kernels

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_ROUNDS = 10
Word = TypeVar("Word", int, Tensor)


class Stream(IntEnum):
    """What a number is for. Two streams never share a number, whatever their index and step."""

    START = 0  # the sampler's start noise
    STEP = 1  # the sampler's noise z at a step
    TRAIN_T = 2
    TRAIN_EPS = 3
    TRAIN_FLIP = 4
    TRAIN_ORDER = 5
    TRAIN_DROPOUT = 6
    VALIDATION = 7
    SUBSETS = 8  # which features a kernel distance draws
    WEIGHTS = 9  # a network's first weights
    TRAIN_LABEL = 10  # whether a training image's label is dropped


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[int, int]) -> tuple[Word, ...]:
    """Ten rounds of Philox-4x32 over unsigned 32-bit words: broadcastable int64 tensors, or four plain integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2^64; shifting and masking recovers both unsigned halves
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> 32 & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            (product0 >> 32 & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def as_key(seed: int | Tensor) -> int | Tensor:
    """The low 64 bits of a seed as the signed number that an int64 tensor holds. Such a tensor is a key already."""
    return seed if isinstance(seed, Tensor) else (seed + 2**63) % 2**64 - 2**63


def words(seed: int | Tensor, stream: Stream, index: Tensor, step: int | Tensor, count: int) -> Tensor:
    """Random 32-bit words.

    seed:   any int, whose low 64 bits are the key; or int64 [1] with these bits, on the device of `index`.
    stream: what the words are for.
    index:  int64 [N] in 0 … 2^32−1: which sample.
    step:   int, int64 [N] or int64 [1]: which step of the sample.
    count:  words per sample.
    Returns int64 [N, count] in 0 … 2^32−1, on the device of `index`.
    """
    if kernels.usable(index):
        from skipstone.kernels import random  # imports Triton

        return random.words(as_key(seed), stream, index, step, count)
    index = index[:, None]
    step = step[:, None] if isinstance(step, Tensor) else torch.full_like(index, step)
    block = torch.arange(math.ceil(count / 4), device=index.device)[None, :]
    key = (seed & _MASK, seed >> 32 & _MASK)
    quad = philox((block, step & _MASK, index & _MASK, torch.full_like(index, int(stream))), key)
    return torch.stack(torch.broadcast_tensors(*quad), dim=-1).flatten(1)[:, :count]


def uniform(seed: int | Tensor, stream: Stream, index: Tensor, step: int | Tensor = 0) -> Tensor:
    """One number in the open interval (0, 1) per sample: float64 [N]. Arguments as for `words`."""
    return (words(seed, stream, index, step, 1)[:, 0].double() + 0.5) * 2.0**-32


def normal(
    seed: int | Tensor,
    stream: Stream,
    index: Tensor,
    shape: tuple[int, ...],
    step: int | Tensor = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal numbers.

    seed, stream, index, step: as for `words`.
    shape: of each sample's numbers.
    dtype: of the result; the numbers are made in float64 and rounded once.
    Returns [N, *shape] of `dtype`, on the device of `index`.
    """
    if kernels.usable(index):
        from skipstone.kernels import random

        return random.normal(as_key(seed), stream, index, shape, step, dtype)
    size = math.prod(shape)
    pairs = math.ceil(size / 2)
    u = (words(seed, stream, index, step, 2 * pairs).double() + 0.5) * 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(u[:, :pairs]))
    angle = (2.0 * math.pi) * u[:, pairs:]
    z = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return z[:, :size].reshape(-1, *shape).to(dtype)


def fold(seed: int, stream: Stream, step: int) -> int:
    """A seed in 0 … 2^63−1 from (seed, stream, step), for generators that are not ours: torch's layers and shuffles."""
    key = (seed & _MASK, seed >> 32 & _MASK)
    high, low, _, _ = philox((0, step & _MASK, 0, int(stream)), key)  # plain integers: nothing waits for a device
    return (high << 32 | low) >> 1

"""What a caller asks for, made definite: how many samples of which shape, in which batches, from which start."""

import torch
from torch import Tensor

from skipstone.engine.step import Model, own_parameter
from skipstone.rng import Stream, normal

LARGEST_DEFAULT_BATCH = 256


def count_and_shape(n: int | None, shape: tuple[int, ...] | None, start: Tensor | None) -> tuple[int, tuple[int, ...]]:
    """(n, shape), given as such or by `start`. Raises ValueError if they are missing or contradict each other."""
    if start is not None:
        if n not in (None, len(start)) or shape not in (None, tuple(start.shape[1:])):
            raise ValueError(f"start has shape {tuple(start.shape)}; leave n and shape out, or let them agree with it.")
        n, shape = len(start), tuple(start.shape[1:])
    if n is None or shape is None:
        raise ValueError("give n and shape, or start.")
    if n < 1:
        raise ValueError(f"n={n} must be at least 1.")
    return n, tuple(shape)


def batch_of(batch_size: int | None, count: int) -> int:
    """The batch size that was asked for, or `count` up to a cap."""
    size = min(count, LARGEST_DEFAULT_BATCH) if batch_size is None else batch_size
    if size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    return size


def starts(
    model: Model, shape: tuple[int, ...], seed: int, index: Tensor, start: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """The start noise of samples `index`, on the model's device: [len(index), *shape] of `dtype`."""
    parameter = own_parameter(model)
    if start is not None:
        return take(start, index, dim=0).to(start.device if parameter is None else parameter.device, dtype)
    device = torch.device("cpu") if parameter is None else parameter.device
    return normal(seed, Stream.START, index.to(device), shape, dtype=dtype)


def take(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """x at `index` along `dim`; an index past the end (padding) repeats the last entry."""
    return x.index_select(dim, index.clamp(max=x.shape[dim] - 1).to(x.device))

"""The engine runs a step table on a model. It knows nothing of DDIM, eta or schedules.

Noise belongs to the sample: start noise is keyed by (seed, k) and step noise by (seed, k, t), so sample k is the same
whatever n, the batch and the other samples are, and two tables that visit the same step share its noise.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skipstone.philox import Stream, normal
from skipstone.solvers import StepTable

Model = Callable[[Tensor, Tensor], Tensor]  # eps = model(x [N, C, H, W], t int64 [N])

LARGEST_DEFAULT_BATCH = 256


class Step(NamedTuple):
    """The state after one row: x_p and the predicted x0 it was made from, both [N, C, H, W]; t → p as in the table."""

    t: int
    p: int
    x: Tensor
    x0: Tensor


@torch.no_grad()
def sample(
    model: Model,
    table: StepTable,
    n: int | None = None,
    shape: tuple[int, ...] | None = None,
    *,
    seed: int = 0,
    start: Tensor | None = None,
    step_noise: Tensor | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Run the table to its end; keeps one state, not the trajectory.

    model: eps = model(x, t), x float [B, C, H, W] in the model's own dtype, t int64 [B]; a Module is in eval mode
        meanwhile, and its modes are restored on exit, also after an exception.
    n, shape: how many samples of which (C, H, W) to draw, from noise of `seed`; or give `start` [n, C, H, W].
    step_noise: z of every row, [S, n, C, H, W], in place of the seed's (for tests).
    batch_size: every batch has this size, the last one padded with samples that are dropped: at one batch size
        sample k is equal bit for bit whatever n. Default: n, at most 256.
    dtype: of the trajectory, whatever the network's precision.
    Returns [n, C, H, W] of `dtype`, in the [−1, 1] scale of the data, on the model's device.
    """
    count, shape = _count_and_shape(n, shape, start)
    size = batch_size or min(count, LARGEST_DEFAULT_BATCH)
    if size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    batches = []
    for first in range(0, count, size):
        index = torch.arange(first, first + size)
        kept = min(size, count - first)
        x = _start(model, shape, seed, index, start, dtype)
        z = None if step_noise is None else _take(step_noise, index, dim=1)
        for step in _rows(model, table, x, index, seed, z):
            x = step.x
        batches.append(x[:kept])
    return torch.cat(batches)


@torch.no_grad()
def trajectory(
    model: Model,
    table: StepTable,
    n: int | None = None,
    shape: tuple[int, ...] | None = None,
    *,
    seed: int = 0,
    start: Tensor | None = None,
    step_noise: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Step]:
    """Run the table in one batch and yield every step. Arguments as for `sample`, whose result its last x is, where
    that runs one batch too.

    A Module stays in eval mode until the iterator is exhausted or closed.
    """
    count, shape = _count_and_shape(n, shape, start)
    index = torch.arange(count)
    yield from _rows(model, table, _start(model, shape, seed, index, start, dtype), index, seed, step_noise)


def _rows(
    model: Model, table: StepTable, x: Tensor, index: Tensor, seed: int, step_noise: Tensor | None
) -> Iterator[Step]:
    """The loop to read beside the paper: one network evaluation, a few lines of arithmetic."""
    dtype, device = x.dtype, x.device
    network_dtype = _parameter(model).dtype if _parameter(model) is not None else dtype
    index = index.to(device)
    times = table.t.to(device)
    history: deque[Tensor] = deque(maxlen=table.c.shape[1])
    with evaluating(model):
        for i in range(table.nfe):
            t, p = int(table.t[i]), int(table.p[i])
            eps = model(x.to(network_dtype), times[i].expand(len(x))).to(dtype)
            x0 = (x - table.sqrt_one_minus_alpha_bar[i].item() * eps) / table.sqrt_alpha_bar[i].item()
            if table.clip_x0:
                x0 = x0.clamp(-1, 1)
            left = table.u[i].item() * x + table.v[i].item() * x0 if history.maxlen else None
            x = table.a[i].item() * x + table.b[i].item() * x0
            for weight, earlier in zip(table.c[i].tolist(), history, strict=False):
                x = x + weight * earlier
            if table.s[i] != 0:
                z = normal(seed, Stream.STEP, index, x.shape[1:], t, dtype) if step_noise is None else step_noise[i]
                x = x + table.s[i].item() * z.to(x)
            if left is not None:
                history.appendleft(left)
            yield Step(t, p, x, x0)


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Eval mode for a Module and all its parts; each part's own mode is restored on exit, also after an exception."""
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def _count_and_shape(n: int | None, shape: tuple[int, ...] | None, start: Tensor | None) -> tuple[int, tuple[int, ...]]:
    if start is not None:
        if n not in (None, len(start)) or shape not in (None, tuple(start.shape[1:])):
            raise ValueError(f"start has shape {tuple(start.shape)}; leave n and shape out, or let them agree with it.")
        n, shape = len(start), tuple(start.shape[1:])
    if n is None or shape is None:
        raise ValueError("give n and shape, or start.")
    if n < 1:
        raise ValueError(f"n={n} must be at least 1.")
    return n, tuple(shape)


def _start(
    model: Model, shape: tuple[int, ...], seed: int, index: Tensor, start: Tensor | None, dtype: torch.dtype
) -> Tensor:
    parameter = _parameter(model)
    if start is not None:
        return _take(start, index, dim=0).to(start.device if parameter is None else parameter.device, dtype)
    device = torch.device("cpu") if parameter is None else parameter.device
    return normal(seed, Stream.START, index.to(device), shape, dtype=dtype)


def _take(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """x at `index` along `dim`; an index past the end (padding) repeats the last entry."""
    return x.index_select(dim, index.clamp(max=x.shape[dim] - 1).to(x.device))


def _parameter(model: Model) -> nn.Parameter | None:
    return next(model.parameters(), None) if isinstance(model, nn.Module) else None

"""One table on a batch: the final samples, or every step on the way."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from skipstone.engine.packing import sample_many
from skipstone.engine.request import batch_of, count_and_shape, starts, take
from skipstone.engine.slots import recordable
from skipstone.engine.step import Model, Row, advance, columns, evaluating, predict
from skipstone.rng import Stream, normal
from skipstone.solvers import StepTable


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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Run the table to its end; keeps one state, not the trajectory.

    model: eps = model(x, t), x float [B, C, H, W] in the model's own dtype, t int64 [B]; a Module is in eval mode
        meanwhile, and its modes are restored on exit, also after an exception.
    n, shape: how many samples of which (C, H, W) to draw, from noise of `seed`; or give `start` [n, C, H, W].
    step_noise: z of every row, [S, n, C, H, W], in place of the seed's (for tests).
    batch_size: every batch has this size, the last one padded with samples that are dropped: at one batch size
        sample k is equal bit for bit whatever n. Default: n, at most 256.
    dtype: of the trajectory, whatever the network's precision.
    progress: called after each evaluation of a batch with how many are done and how many there are.
    Returns [n, C, H, W] of `dtype`, in the [−1, 1] scale of the data, on the model's device.
    """
    if step_noise is None and recordable(model):
        asked = dict(seed=seed, start=start, batch_size=batch_size, dtype=dtype, progress=progress)
        return sample_many(model, [table], n, shape, **asked)[0]
    count, shape = count_and_shape(n, shape, start)
    size = batch_of(batch_size, count)
    total = -(-count // size) * table.nfe
    batches = []
    for first in range(0, count, size):
        index = torch.arange(first, first + size)
        kept = min(size, count - first)
        x = starts(model, shape, seed, index, start, dtype)
        z = None if step_noise is None else take(step_noise, index, dim=1)
        for i, step in enumerate(_rows(model, table, x, index, seed, z)):
            x = step.x
            progress(len(batches) * table.nfe + i + 1, total)
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
    count, shape = count_and_shape(n, shape, start)
    index = torch.arange(count)
    yield from _rows(model, table, starts(model, shape, seed, index, start, dtype), index, seed, step_noise)


def slerp(a: Tensor, b: Tensor, count: int) -> Tensor:
    """`count` start noises from a to b (both ends included) along the sphere (Song et al. 2021, appendix D.5).

    a, b: float [C, H, W].  Returns [count, C, H, W]: sin((1−w)θ)/sin θ · a + sin(wθ)/sin θ · b, θ the angle between.
    """
    theta = torch.arccos((a * b).sum() / (a.norm() * b.norm()))
    w = torch.linspace(0, 1, count, dtype=a.dtype, device=a.device).view(-1, 1, 1, 1)
    return (torch.sin((1 - w) * theta) * a + torch.sin(w * theta) * b) / torch.sin(theta)


def _rows(
    model: Model, table: StepTable, x: Tensor, index: Tensor, seed: int, step_noise: Tensor | None
) -> Iterator[Step]:
    """The loop to read beside the paper: one network evaluation a row, then `advance`."""
    index = index.to(x.device)
    times = table.t.to(x.device)
    history: deque[Tensor] = deque(maxlen=table.c.shape[1])
    with evaluating(model):
        for i, values in enumerate(columns(table, table.c.shape[1]).tolist()):
            t, p, row = int(table.t[i]), int(table.p[i]), Row.of(values)
            eps = predict(model, x, times[i].expand(len(x)))
            z = None
            if row.s != 0:
                z = normal(seed, Stream.STEP, index, x.shape[1:], t, x.dtype) if step_noise is None else step_noise[i]
                z = z.to(x)
            x, x0, h = advance(row, x, eps, history, z)
            if h is not None:
                history.appendleft(h)
            yield Step(t, p, x, x0)

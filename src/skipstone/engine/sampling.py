"""One table on a batch: the final samples, or every step on the way."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from skipstone.checked import checked
from skipstone.engine.gradients import differentiable
from skipstone.engine.packing import sample_many
from skipstone.engine.request import batch_of, count_and_shape, require_count, require_noise, require_run, starts, take
from skipstone.engine.slots import recordable
from skipstone.engine.step import Model, Row, advance, columns, evaluating, predict
from skipstone.rng import Stream, normal
from skipstone.solvers import StepTable


class Step(NamedTuple):
    """The state after the row t → p: x_p, the x0 that it was made from, and what the row has left, each [N, C, H, W].

    Where the table has no history, nothing is left.
    """

    t: float  # an int where the table has integers
    p: float
    x: Tensor
    x0: Tensor
    left: Tensor | None


@checked
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
    grad: bool = False,
) -> Tensor:
    """Run the table to its end. One state is kept, not the trajectory.

    model:      eps = model(x, t), with x float [B, C, H, W] in the model's own dtype and t int64 [B], or float64 [B]
                where the table has real times. A Module is in eval mode meanwhile. Its modes are restored on exit,
                also after an exception.
    table:      of a solver, see `skipstone.solvers`.
    n, shape:   how many samples, and their (C, H, W), or any other shape that the model takes. They start from the
                noise of `seed`.
    seed:       any int. It gives the start noise and the noise of the steps.
    start:      [n, C, H, W] to start from as it is, in place of n, shape and the seed's start noise.
    step_noise: z of every row, [S, n, C, H, W], in place of the seed's (for tests).
    batch_size: of every batch. The last one is padded with samples that are dropped, so at one batch size sample k is
                equal bit for bit whatever n is. Default: n, at most 256.
    dtype:      of the trajectory. The network keeps its own precision.
    progress:   called after each network call with the numbers of calls done and of all calls.
    grad:       whether the result has gradients with respect to `start`, to the network's parameters and to the columns
                of the table. A row is run again when its gradient is asked for, so memory holds the activations of one
                row, and of every row what it starts from.
    Returns [n, C, H, W] of `dtype`, in the [−1, 1] scale of the data, on the model's device. Where the network gives
    NaN or infinity, so do the samples, and nothing is raised: `not_finite` names the samples and the t.
    Raises ValueError if n, shape and start are missing or contradict each other, or if batch_size is below 1.
    """
    if step_noise is None and recordable(model) and not grad:
        asked = dict(seed=seed, start=start, batch_size=batch_size, dtype=dtype, progress=progress)
        return sample_many(model, [table], n, shape, **asked)[0]
    require_run(model, [table], dtype)
    count, shape = count_and_shape(n, shape, start)
    if start is None:
        require_noise(table)
    if step_noise is not None:
        _require_step_noise(step_noise, table, count, shape)
    size = batch_of(batch_size, count)
    total = -(-count // size) * table.nfe
    batches = []
    for first in range(0, count, size):
        index = torch.arange(first, first + size)
        kept = min(size, count - first)
        z = None if step_noise is None else take(step_noise, index, dim=1)
        done = len(batches) * table.nfe
        if grad:
            with torch.enable_grad():
                x = starts(model, shape, seed, index, start, dtype, table.start_scale)
                batches.append(differentiable(model, table, x, index, seed, z)[:kept])
            progress(done + table.nfe, total)
            continue
        x = starts(model, shape, seed, index, start, dtype, table.start_scale)
        for asked, step in zip(table.evaluated.tolist(), rows(model, table, x, index, seed, z), strict=True):
            x = step.x
            done += asked
            if asked:
                progress(done, total)
        batches.append(x[:kept])
    with torch.set_grad_enabled(grad):
        return torch.cat(batches)


@checked
def trajectory(
    model: Model,
    table: StepTable,
    n: int | None = None,
    shape: tuple[int, ...] | None = None,
    *,
    seed: int = 0,
    start: Tensor | None = None,
    step_noise: Tensor | None = None,
    left: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Step]:
    """Run the table in one batch and yield every step.

    left: what a row before the first has left, like start, for a table that goes on from another.
    Other arguments as for `sample`. If `sample` runs one batch too, its result is the x of the last step here.
    What is wrong is refused at the call. A Module is in eval mode from the first step on, also while the caller looks
    at one, until the iterator is exhausted or closed.
    """
    require_run(model, [table], dtype)
    count, shape = count_and_shape(n, shape, start)
    if start is None:
        require_noise(table)
    if step_noise is not None:
        _require_step_noise(step_noise, table, count, shape)
    index = torch.arange(count)
    x = starts(model, shape, seed, index, start, dtype, table.start_scale).detach()
    return torch.no_grad()(rows)(model, table, x, index, seed, step_noise, left)


@checked
def sample_pair(
    model: Model, table: StepTable, start: Tensor, left: Tensor | None = None, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Run a table of two states, such as BELM's, in one batch: the end, and what the last row has left.

    Arguments as for `trajectory`. Raises ValueError for a table without history.
    """
    if not table.c.shape[1]:
        raise ValueError("this table has one state, not two: use engine.sample.")
    for step in trajectory(model, table, start=start, left=left, dtype=dtype):
        end = step
    return end.x, end.left


def _require_step_noise(step_noise: Tensor, table: StepTable, n: int, shape: tuple[int, ...]) -> None:
    wanted = (len(table.t), n, *shape)
    if tuple(step_noise.shape) != wanted:
        raise ValueError(
            f"step_noise has shape {tuple(step_noise.shape)}, and must have {wanted}: one z per row and sample."
        )


@checked
def slerp(a: Tensor, b: Tensor, count: int) -> Tensor:
    """`count` start noises from a to b (both included) along the sphere (Song et al. 2021, appendix D.5).

    a, b:  float [C, H, W], or of any other shape, finite.
    count: at least 1.
    Returns [count, C, H, W], or [count, …]: sin((1−w)θ)/sin θ · a + sin(wθ)/sin θ · b for w in 0 … 1, with θ the angle
    between a and b; for θ = 0 the limit (1−w) a + w b.
    Raises ValueError where a or b is zero or not finite, and where they are opposite: no arc is the shortest.
    """
    require_count("count", count)
    if a.shape != b.shape or not (a.is_floating_point() and b.is_floating_point()):
        raise ValueError(f"a and b must be of floats and of one shape, got {a.shape} and {b.shape}.")
    cosine = (a * b).sum() / (a.norm() * b.norm())
    if not bool(cosine.isfinite()):
        raise ValueError("a and b must be finite and not zero: there is no way between them on the sphere.")
    theta = torch.arccos(cosine.clamp(-1, 1))
    w = torch.linspace(0, 1, count, dtype=a.dtype, device=a.device).view(-1, *(1 for _ in a.shape))
    if float(torch.sin(theta)) < torch.finfo(a.dtype).eps:
        if cosine < 0:
            raise ValueError("a and b are opposite, so many ways between them are the shortest: choose other ends.")
        return (1 - w) * a + w * b
    return (torch.sin((1 - w) * theta) * a + torch.sin(w * theta) * b) / torch.sin(theta)


def rows(
    model: Model,
    table: StepTable,
    x: Tensor,
    index: Tensor,
    seed: int,
    step_noise: Tensor | None = None,
    left: Tensor | None = None,
) -> Iterator[Step]:
    """The loop over rows: one network call per row, then `advance`. DDIM as in the paper is in reference.py."""
    index = index.to(x.device)
    asked, keys = table.asked.to(x.device), table.noise_keys.tolist()
    history: deque[Tensor] = deque(() if left is None else (left.to(x),), maxlen=table.c.shape[1])
    with evaluating(model):
        for i, values in enumerate(columns(table, table.c.shape[1]).tolist()):
            t, p, row = table.t[i].item(), table.p[i].item(), Row.of(values)
            eps = predict(model, x, asked[i].expand(len(x))) if table.evaluated[i] else x
            z = None
            if row.s != 0:
                drawn = step_noise is None
                z = normal(seed, Stream.STEP, index, x.shape[1:], keys[i], x.dtype) if drawn else step_noise[i].to(x)
            x, x0, h = advance(row, x, eps, history, z)
            if h is not None:
                history.appendleft(h)
            yield Step(t, p, x, x0, h)

"""One table on a batch: the final samples, or every step on the way."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skipstone.checked import checked
from skipstone.engine.gradients import differentiable
from skipstone.engine.known import Known, landings
from skipstone.engine.packing import sample_many
from skipstone.engine.request import (
    batch_of,
    count_and_shape,
    require_count,
    require_first,
    require_labels,
    require_noise,
    require_run,
    starts,
    take,
    with_guidance,
)
from skipstone.engine.slots import recordable
from skipstone.engine.step import Model, Row, advance, columns, evaluating, labels_of, predict
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
    first: int = 0,
    known: tuple[Tensor, Tensor] | None = None,
    labels: Tensor | None = None,
    guidance: float | None = None,
    guidance_interval: Sequence[float] | None = None,
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
    first:      the samples are first … first+n−1 of the seed, each equal bit for bit to itself in a larger run of the
                same batch size. `start`, `step_noise`, `known` and `labels` begin at `first`.
    known:      (x0, mask) for inpainting as in RePaint (Lugmayr et al. 2022): after every row the pixels where mask is
                true become a draw from q(x_p | x0), and in the end x0. x0 is float and mask bool, both [n, C, H, W], or
                1 where all are equal. Needs a table of one-step rows; `solvers.resampled` gives it their resampling.
    labels:     int64 [n], in 0 … classes−1 or the null label: of each sample, handed to the model as a third argument.
                A model without classes, or one that is asked for no class, has none.
    guidance:   w of eps = eps_null + w (eps_label − eps_null), as `solvers.guided` has it: two evaluations per row.
    guidance_interval: [t_lo, t_hi], outside of which w is 1.
    Returns [n, C, H, W] of `dtype`, in the [−1, 1] scale of the data, on the model's device. Where the network gives
    NaN or infinity, so do the samples, and nothing is raised: `not_finite` names the samples and the t.
    Raises ValueError if n, shape and start are missing or contradict each other, or if batch_size is below 1.
    """
    (table,) = with_guidance([table], guidance, guidance_interval)
    if step_noise is None and recordable(model) and not grad:
        asked = dict(seed=seed, start=start, batch_size=batch_size, dtype=dtype, progress=progress)
        return sample_many(model, [table], n, shape, **asked, first=first, known=known, labels=labels)[0]
    require_run(model, [table], dtype)
    count, shape = count_and_shape(n, shape, start)
    require_first(first, count)
    require_labels(model, [table], labels, count)
    if start is None:
        require_noise(table)
    if step_noise is not None:
        _require_step_noise(step_noise, table, count, shape)
    size = batch_of(batch_size, count)
    total = -(-count // size) * table.nfe
    pixels = None if known is None else Known.of(known, (count, *shape))
    batches = []
    for begin in range(first, first + count, size):
        # sample k is always in slot k % size, where a network's rounding may depend on the slot
        index = torch.arange(begin, begin + size).roll(begin)
        z = None if step_noise is None else take(step_noise, index - first, dim=1)
        own = None if labels is None else take(labels, index - first, dim=0)
        done = len(batches) * table.nfe
        with torch.set_grad_enabled(grad):
            x = starts(model, shape, seed, index, start, dtype, table.start_scale, first)
            here = None if pixels is None else pixels.at(index - first, x)
            if grad:
                *_, x = differentiable(model, table, x, index, seed, z, here, own)
                progress(done + table.nfe, total)
            else:
                steps = rows(model, table, x, index, seed, z, known=here, labels=own)
                for asked, step in zip(table.evaluated.tolist(), steps, strict=True):
                    x = step.x
                    done += asked
                    if asked:
                        progress(done, total)
            batches.append(x.roll(-begin, 0)[: first + count - begin])
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
    first: int = 0,
    known: tuple[Tensor, Tensor] | None = None,
    labels: Tensor | None = None,
    guidance: float | None = None,
    guidance_interval: Sequence[float] | None = None,
) -> Iterator[Step]:
    """Run the table in one batch and yield every step.

    left: what a row before the first has left, like start, for a table that goes on from another.
    A guided step is two: the first leaves x as it is, and its x0 is the label's.
    Other arguments as for `sample`. If `sample` runs one batch too, its result is the x of the last step here.
    What is wrong is refused at the call. A Module is in eval mode from the first step on, also while the caller looks
    at one, until the iterator is exhausted or closed.
    """
    require_run(model, [table], dtype)
    count, shape = count_and_shape(n, shape, start)
    require_first(first, count)
    if start is None:
        require_noise(table)
    if step_noise is not None:
        _require_step_noise(step_noise, table, count, shape)
    (table,) = with_guidance([table], guidance, guidance_interval)
    require_labels(model, [table], labels, count)
    index = torch.arange(first, first + count)
    x = starts(model, shape, seed, index, start, dtype, table.start_scale, first).detach()
    pixels = None if known is None else Known.of(known, x.shape).at(index - first, x)
    return torch.no_grad()(rows)(model, table, x, index, seed, step_noise, left, pixels, labels)


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
    known: Known | None = None,
    labels: Tensor | None = None,
) -> Iterator[Step]:
    """The loop over rows: one network call per row, then `advance`. DDIM as in the paper is in reference.py."""
    landing = None if known is None else landings(table).tolist()
    index = index.to(x.device)
    asked, keys = table.asked.to(x.device), table.noise_keys.tolist()
    history: deque[Tensor] = deque(() if left is None else (left.to(x),), maxlen=table.c.shape[1])
    own = labels_of(model, table, None if labels is None else labels.to(x.device))
    with evaluating(model):
        for i, values in enumerate(columns(table, table.c.shape[1]).tolist()):
            t, p, row = table.t[i].item(), table.p[i].item(), Row.of(values, bool(table.w[i] != 0))
            eps = predict(model, x, asked[i].expand(len(x)), own[i]) if table.evaluated[i] else x
            z = None
            if row.s != 0 or landing is not None:
                drawn = step_noise is None
                z = normal(seed, Stream.STEP, index, x.shape[1:], keys[i], x.dtype) if drawn else step_noise[i].to(x)
            x, x0, h = advance(row, x, eps, history, z)
            if landing is not None:
                x = known.kept(x, *landing[i], z)
            if h is not None:
                history.appendleft(h)
            yield Step(t, p, x, x0, h)

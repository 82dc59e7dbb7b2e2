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
    evaluated: Callable[[], None] = lambda: None,
) -> Tensor:
    """Run the table to its end; keeps one state, not the trajectory.

    model: eps = model(x, t), x float [B, C, H, W] in the model's own dtype, t int64 [B]; a Module is in eval mode
        meanwhile, and its modes are restored on exit, also after an exception.
    n, shape: how many samples of which (C, H, W) to draw, from noise of `seed`; or give `start` [n, C, H, W].
    step_noise: z of every row, [S, n, C, H, W], in place of the seed's (for tests).
    batch_size: every batch has this size, the last one padded with samples that are dropped: at one batch size
        sample k is equal bit for bit whatever n. Default: n, at most 256.
    dtype: of the trajectory, whatever the network's precision.
    evaluated: called after each evaluation of a batch, for a progress bar.
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
            evaluated()
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


def slerp(a: Tensor, b: Tensor, count: int) -> Tensor:
    """`count` start noises from a to b (both ends included) along the sphere (Song et al. 2021, appendix D.5).

    a, b: float [C, H, W].  Returns [count, C, H, W]: sin((1−w)θ)/sin θ · a + sin(wθ)/sin θ · b, θ the angle between.
    """
    theta = torch.arccos((a * b).sum() / (a.norm() * b.norm()))
    w = torch.linspace(0, 1, count, dtype=a.dtype, device=a.device).view(-1, 1, 1, 1)
    return (torch.sin((1 - w) * theta) * a + torch.sin(w * theta) * b) / torch.sin(theta)


class Inversion(NamedTuple):
    """How the row t → p was solved backwards.

    evaluations: of the network.  residual: ‖x_p − row(x_t)‖/‖x_p‖ of the worst sample.  converged: whether that is
    within the tolerance; where it is not, the step is too coarse for this network and x_t is the best that was met.
    """

    t: int
    p: int
    evaluations: int
    residual: float
    converged: bool


@torch.no_grad()
def invert(
    model: Model, table: StepTable, x: Tensor, *, tolerance: float = 2e-7, most: int = 60, memory: int = 4
) -> tuple[Tensor, list[Inversion]]:
    """The start from which `sample(model, table, start=…)` gives x, exactly: no Euler step up, but each row undone.

    A row is x_p = A x_t + B eps(x_t, t), so x_t is the fixed point of (x_p − B eps(·, t))/A; Anderson's acceleration
    over the `memory` latest iterates finds it for all samples at once.

    table: deterministic, of one-step rows without clipping, built with to_data=False: the row that lands on x0 keeps
        nothing of x_t. So x is the state at the first visited step.
    x: float [n, C, H, W].  tolerance: of the residual.  most: evaluations a row.
    Returns (start [n, C, H, W] like x, one Inversion a row, in the order solved: from the data up).
    Raises ValueError for a table whose rows cannot be undone.
    """
    if table.stochastic or table.clip_x0 or table.c.numel() or bool((table.p < 0).any()) or bool((table.f < 0).any()):
        raise ValueError(
            "this table cannot be inverted: it must be deterministic, of one-step rows from noise to noise; use DDIM "
            "with eta=0 or ProbabilityFlow, with to_data=False and clip_x0=False."
        )
    rows = []
    with evaluating(model):
        for i in reversed(range(table.nfe)):
            signal, noise = table.sqrt_alpha_bar[i].item(), table.sqrt_one_minus_alpha_bar[i].item()
            A = table.a[i].item() + table.b[i].item() / signal
            B = -table.b[i].item() * noise / signal
            t = table.t[i].to(x.device).expand(len(x))
            x, evaluations, residual = _fixed_point(
                lambda y, x_p=x, A=A, B=B, t=t: (x_p - B * _evaluate(model, y, t)) / A,
                x / A,
                abs(A) / _norm(x),
                tolerance,
                most,
                memory,
            )
            rows.append(Inversion(int(table.t[i]), int(table.p[i]), evaluations, residual, residual <= tolerance))
    return x, rows


def _fixed_point(
    function: Callable[[Tensor], Tensor], x: Tensor, scale: Tensor, tolerance: float, most: int, memory: int
) -> tuple[Tensor, int, float]:
    """x = function(x) by Anderson's method, a sample at a time; scale [n] turns ‖function(x) − x‖ into the residual."""
    best, smallest = x, torch.full_like(scale, float("inf"))
    images: deque[Tensor] = deque(maxlen=memory)
    errors: deque[Tensor] = deque(maxlen=memory)
    evaluations = 0
    while evaluations < most:
        evaluations += 1
        image = function(x)
        error = image - x
        residual = _norm(error) * scale
        better = residual < smallest
        best = torch.where(better.view(-1, 1, 1, 1), x, best)
        smallest = torch.where(better, residual, smallest)
        if bool((smallest <= tolerance).all()):
            break
        images.append(image)
        errors.append(error)
        x = _mix(images, errors)
    return best, evaluations, float(smallest.max())


def _mix(images: "deque[Tensor]", errors: "deque[Tensor]") -> Tensor:
    """The combination of the latest images whose weights sum to 1 and make that of the errors smallest."""
    if len(images) == 1:
        return images[-1]
    flat = torch.stack([error.flatten(1) for error in errors], dim=1).double()  # [n, m, pixels]
    gram = flat @ flat.transpose(1, 2)
    size = gram.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    ridge = torch.eye(len(errors), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram + 1e-12 * size * ridge + 1e-300 * ridge, torch.ones_like(gram[..., :1]))
    weights = weights / weights.sum(dim=1, keepdim=True)
    stacked = torch.stack([image.flatten(1) for image in images], dim=1)
    return (weights.to(stacked.dtype) * stacked).sum(dim=1).reshape_as(images[-1])


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).double().norm(dim=1)


def _rows(
    model: Model, table: StepTable, x: Tensor, index: Tensor, seed: int, step_noise: Tensor | None
) -> Iterator[Step]:
    """The loop to read beside the paper: one network evaluation, a few lines of arithmetic."""
    dtype, device = x.dtype, x.device
    index = index.to(device)
    times = table.t.to(device)
    history: deque[Tensor] = deque(maxlen=table.c.shape[1])
    with evaluating(model):
        for i in range(table.nfe):
            t, p = int(table.t[i]), int(table.p[i])
            eps = _evaluate(model, x, times[i].expand(len(x)))
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


def _evaluate(model: Model, x: Tensor, t: Tensor) -> Tensor:
    """eps in the trajectory's dtype, evaluated in the network's own."""
    parameter = _parameter(model)
    return model(x if parameter is None else x.to(parameter.dtype), t).to(x.dtype)


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

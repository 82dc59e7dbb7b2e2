"""A deterministic table, run backwards exactly."""

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skipstone.checked import checked
from skipstone.engine.request import require_count, require_labels, require_run
from skipstone.engine.step import Model, evaluating, labels_of, predict
from skipstone.solvers import StepTable


class Inversion(NamedTuple):
    """How the row t → p was solved backwards.

    t, p:        of the row, int or float as its table has them.
    evaluations: network calls.
    residual:    ‖x_p − row(x_t)‖/‖x_p‖ of the worst sample.
    converged:   whether the residual is within the tolerance. If it is not, the step is too coarse for this network,
                 and x_t is the best that was found.
    """

    t: float
    p: float
    evaluations: int
    residual: float
    converged: bool


@checked
@torch.no_grad()
def invert(
    model: Model,
    table: StepTable,
    x: Tensor,
    *,
    tolerance: float = 2e-7,
    most: int = 60,
    memory: int = 4,
    labels: Tensor | None = None,
) -> tuple[Tensor, list[Inversion]]:
    """The start from which `sample(model, table, start=…)` gives x. Each row is undone exactly, not by a step upwards.

    A row is x_p = A x_t + B eps(x_t, t), so x_t is the fixed point of (x_p − B eps(·, t))/A. Anderson's acceleration
    over the `memory` latest iterates finds it for all samples at once.

    model:     as for `sample`.
    table:     deterministic, of one-step rows without clipping, built with to_data=False, because a row that lands on
               x0 keeps nothing of x_t.
    x:         float [n, C, H, W], or [n, …]: the state at the first visited step.
    tolerance: of the residual, relative.
    most:      network calls per row.
    memory:    iterates that are mixed.
    labels:    int64 [n], as for `sample`.
    Returns the start, like x, and one Inversion per row, in the order in which rows are undone: from the data up.
    Raises ValueError for a table whose rows cannot be undone, for x that is not finite, and where the network gives
    values that are not.
    """
    require_invertible(table)
    require_count("most", most)
    require_count("memory", memory)
    if not x.is_floating_point():
        raise ValueError(f"x must be a tensor of floats in the [-1, 1] scale, got {x.dtype}.")
    require_run(model, [table], x.dtype)
    if not bool(x.isfinite().all()):
        raise ValueError("x has values that are not finite (NaN or infinite): every value must be a number.")
    require_labels(model, [table], labels, len(x))
    own = labels_of(model, table, None if labels is None else labels.to(x.device))
    rows = []
    with evaluating(model):
        for i in reversed(range(len(table.t))):
            signal, noise = table.sqrt_alpha_bar[i].item(), table.sqrt_one_minus_alpha_bar[i].item()
            A = table.a[i].item() + table.b[i].item() / signal
            B = -table.b[i].item() * noise / signal
            t = table.asked[i].to(x.device).expand(len(x))
            x, evaluations, residual = _fixed_point(
                lambda y, x_p=x, A=A, B=B, t=t, own=own[i]: (x_p - B * predict(model, y, t, own)) / A,
                x / A,
                abs(A) / _norm(x).clamp(min=torch.finfo(torch.float32).tiny),  # an image may be 0 everywhere
                tolerance,
                most,
                memory,
            )
            if not math.isfinite(residual):
                raise ValueError(
                    f"the network gives values that are not finite at t={table.t[i].item():g}, so the row to "
                    f"{table.p[i].item():g} cannot be undone: use other weights, or a finer precision."
                )
            rows.append(Inversion(table.t[i].item(), table.p[i].item(), evaluations, residual, residual <= tolerance))
    return x, rows


@checked
def require_invertible(table: StepTable) -> None:
    """Raise ValueError for a table whose rows `invert` cannot undo."""
    at_data = bool((table.p <= -1).any()) or bool((table.f <= -1).any())
    if table.stochastic or table.clip_x0 or table.c.numel() or at_data or table.nfe < len(table.t):
        raise ValueError(
            "this table cannot be inverted: it must be deterministic, of one-step rows from noise to noise; use DDIM "
            "with eta=0 or ProbabilityFlow, with to_data=False and clip_x0=False."
        )


def _fixed_point(
    function: Callable[[Tensor], Tensor], x: Tensor, scale: Tensor, tolerance: float, most: int, memory: int
) -> tuple[Tensor, int, float]:
    """x = function(x) by Anderson's method for each sample. scale [n] turns ‖function(x) − x‖ into the residual."""
    best, smallest = x, torch.full_like(scale, float("inf"))
    images: deque[Tensor] = deque(maxlen=memory)
    errors: deque[Tensor] = deque(maxlen=memory)
    evaluations = 0
    while evaluations < most:
        evaluations += 1
        image = function(x)
        error = image - x
        if evaluations == 1 and not bool(error.isfinite().all()):
            break
        residual = _norm(error) * scale
        better = residual < smallest
        best = torch.where(better.view(-1, *(1 for _ in x.shape[1:])), x, best)
        smallest = torch.where(better, residual, smallest)
        if bool((smallest <= tolerance).all()):
            break
        images.append(image)
        errors.append(error)
        x = _mix(images, errors)
    return best, evaluations, float(smallest.max())


def _mix(images: "deque[Tensor]", errors: "deque[Tensor]") -> Tensor:
    """The latest images, mixed with the weights of sum 1 for which the mixed errors are smallest."""
    if len(images) == 1:
        return images[-1]
    flat = torch.stack([error.reshape(len(error), -1) for error in errors], dim=1).double()  # [n, m, pixels]
    gram = flat @ flat.transpose(1, 2)
    size = gram.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    ridge = torch.eye(len(errors), dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram + 1e-12 * size * ridge + 1e-300 * ridge, torch.ones_like(gram[..., :1]))
    weights = weights / weights.sum(dim=1, keepdim=True)
    stacked = torch.stack([image.reshape(len(image), -1) for image in images], dim=1)
    return (weights.to(stacked.dtype) * stacked).sum(dim=1).reshape_as(images[-1])


def _norm(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).double().norm(dim=1)

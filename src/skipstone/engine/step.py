"""One row of a table: what `sample`, `trajectory` and `sample_many` share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skipstone.checked import checked
from skipstone.solvers import StepTable

# eps = model(x [N, C, H, W], t int64 [N], float64 for real times), and where there are labels model(x, t, int64 [N])
Model = Callable[..., Tensor]


class Row(NamedTuple):
    """The numbers of one row: floats for a whole batch, or [B, 1, …] where each slot runs its own row."""

    signal: float | Tensor  # √ᾱ_t
    noise: float | Tensor  # √(1−ᾱ_t)
    limit: float | Tensor  # the largest |x0|: 1 if the table clips, else infinite
    a: float | Tensor
    b: float | Tensor
    s: float | Tensor
    u: float | Tensor
    v: float | Tensor
    w: float | Tensor | None  # None: 0, and nothing is mixed
    c: Sequence[float] | Sequence[Tensor]

    @classmethod
    def of(cls, values: Sequence[float] | Sequence[Tensor], mixed: bool) -> "Row":
        """The row of one line of `columns`. mixed: whether it may have a w that is not 0."""
        return cls(*values[:8], w=values[8] if mixed else None, c=values[9:])


def columns(table: StepTable, history: int) -> Tensor:
    """A table's rows in the order of Row, with `history` columns c: float64 [S, 9 + history]."""
    clips = ~table.first_halves if table.clip_x0 else torch.zeros_like(table.null)
    limit = torch.where(clips, 1.0, torch.inf).double()
    c = torch.nn.functional.pad(table.c, (0, history - table.c.shape[1]))
    roots = (table.sqrt_alpha_bar, table.sqrt_one_minus_alpha_bar)
    plain = (*roots, limit, table.a, table.b, table.s, table.u, table.v, table.w)
    return torch.cat([torch.stack(plain, dim=1), c], dim=1)


def advance(
    row: Row, x: Tensor, eps: Tensor, history: Sequence[Tensor], z: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(x_p, x0, h) from x_f and eps: the lines at the top of solvers/table.py.

    row:     its numbers, as for `Row`.
    x, eps:  [N, C, H, W]: the state x_f, and the network's output at it.
    history: what earlier rows left, the latest first.
    z:       fresh noise like x, or None where s = 0.
    Returns x_p, x0 and h like x; h is None if the table has no history.
    """
    x0 = (x - row.noise * eps) / row.signal
    if row.w is not None:
        x0 = (1 - row.w) * x0 + row.w * history[0]
    x0 = torch.add(x0.clamp(-row.limit, row.limit), x0, alpha=0)  # ±∞ becomes NaN, which no clipping hides
    x_p = row.a * x + row.b * x0
    for c, h in zip(row.c, history, strict=False):
        x_p = x_p + c * h
    if z is not None:
        x_p = x_p + row.s * z
    return x_p, x0, row.u * x + row.v * x0 if row.c else None


def predict(model: Model, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    """eps in the trajectory's dtype, from one call of the network in its own.

    labels: int64 [N], or None for a call without.

    Raises ValueError if the network gives anything but a tensor like x: one of another shape would be broadcast.
    """
    parameter = own_parameter(model)
    eps = model(x if parameter is None else x.to(parameter.dtype), t, *(() if labels is None else (labels,)))
    if not isinstance(eps, Tensor):
        raise ValueError(
            f"the model gave a {type(eps).__name__}, and eps must be a tensor like x: wrap the model, for example as "
            "lambda x, t: model(x, t).sample for one of diffusers."
        )
    if eps.shape != x.shape:
        raise ValueError(f"the model gave eps of shape {tuple(eps.shape)} for x of shape {tuple(x.shape)}: correct it.")
    return eps.to(x.dtype)


@checked
@torch.no_grad()
def warm_up(model: Model, shape: tuple[int, ...], batch_size: int) -> None:
    """Call the network once and drop the result, so that one that compiles has done so before a clock starts.

    model:      as for `sample`.
    shape:      (C, H, W) of one sample.
    batch_size: of the batch that will be sampled: a network compiles for one shape.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    parameter = own_parameter(model)
    device = None if parameter is None else parameter.device
    zeros = torch.zeros(batch_size, dtype=torch.int64, device=device)
    with evaluating(model):
        predict(model, torch.zeros(batch_size, *shape, device=device), zeros, zeros if classes_of(model) else None)


def classes_of(model: Model) -> int:
    """Of its labels, by its attribute `classes`; 0 for a model without."""
    return getattr(model, "classes", 0)


def null_label(model: Model) -> int | None:
    """The label that is no class, by its attribute `null_label`; None for a model without."""
    return getattr(model, "null_label", None)


def labels_of(model: Model, table: StepTable, labels: Tensor | None) -> list[Tensor | None]:
    """What each row of the table asks with: the samples' labels, or the null label."""
    if labels is None or not bool(table.null.any()):
        return [labels] * len(table.null)
    null = torch.full_like(labels, null_label(model))
    return [null if without else labels for without in table.null.tolist()]


def own_parameter(model: Model) -> nn.Parameter | None:
    """A parameter of the network, which has its device and dtype; None for a plain callable."""
    return next(model.parameters(), None) if isinstance(model, nn.Module) else None


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Eval mode for a Module and all its parts. Each part's mode is restored on exit, also after an exception."""
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training

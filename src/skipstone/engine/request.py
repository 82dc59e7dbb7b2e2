"""What a caller asks for, made definite: how many samples of which shape, in which batches, from which start."""

import sys
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from skipstone.checked import checked, is_integer
from skipstone.engine.step import Model, classes_of, null_label, own_parameter
from skipstone.rng import Stream, normal
from skipstone.solvers import StepTable, guided

LARGEST_DEFAULT_BATCH = 256
_SAMPLES = 2**32  # of a seed
_MOST_SIGNAL, _MUCH_SIGNAL = 0.3, 0.1  # of √ᾱ where sampling starts: refused above the first, warned above the second
_LEAST_SIGNAL = 2.0**-24  # below it 1 and √(1−ᾱ) are one number in float32


def count_and_shape(n: int | None, shape: tuple[int, ...] | None, start: Tensor | None) -> tuple[int, tuple[int, ...]]:
    """(n, shape), given as such or by `start`. Raises ValueError if they are missing or contradict each other."""
    if start is not None:
        if not isinstance(start, Tensor) or not start.is_floating_point():
            kind = start.dtype if isinstance(start, Tensor) else type(start).__name__
            raise ValueError(f"start must be a torch.Tensor of floats, got {kind}: use torch.as_tensor(start).float().")
        if not bool(start.isfinite().all()):
            raise ValueError("start has values that are not finite (NaN or infinite): every value must be a number.")
        if n not in (None, len(start)) or (shape is not None and tuple(shape) != tuple(start.shape[1:])):
            raise ValueError(f"start has shape {tuple(start.shape)}; leave n and shape out, or let them agree with it.")
        n, shape = len(start), tuple(start.shape[1:])
    if n is None or shape is None:
        raise ValueError("give n and shape, or start.")
    require_count("n", n)
    for size in shape:
        require_count("every size in shape", size)
    return int(n), tuple(int(size) for size in shape)


def require_run(model: Model, tables: Sequence[StepTable], dtype: torch.dtype) -> None:
    """Raise ValueError for a dtype that holds no samples, and for times that the model's process has not.

    A model of `skipstone.load` knows the T of its process, `num_steps`. Of others nothing is known.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype} is not allowed: samples are floats, so use torch.float32 or torch.float64.")
    num_steps = getattr(model, "num_steps", None)
    latest = max(float(table.asked.max()) for table in tables)
    if num_steps is not None and latest > num_steps - 1:
        raise ValueError(
            f"this table asks the network at t={latest:g}, and the model's process has the steps 0 ... "
            f"{num_steps - 1}: make a table of the model's own process."
        )


def require_count(name: str, value: object) -> None:
    """Raise ValueError unless the value is an integer of at least 1."""
    if not is_integer(value) or value < 1:
        raise ValueError(f"{name}={value!r} must be at least 1, and an integer.")


def require_first(first: int, count: int) -> None:
    """Raise ValueError unless there are samples first … first+count−1: their numbers have 32 bits."""
    if first < 0 or first + count > _SAMPLES:
        raise ValueError(f"first={first} must be at least 0, and at most {_SAMPLES} less the number of samples.")


@checked
def require_noise(table: StepTable) -> None:
    """Refuse a table whose first row is asked to start from pure noise where an image is still to be seen.

    Start noise is N(0, start_scale²), and at the first row's t the image has the weight √ᾱ_t. Raises ValueError above
    0.3, where mean and spread of the samples are visibly off, and where √ᾱ_t is less than float32 resolves; warns above
    0.1.
    """
    t, signal = table.t[0].item(), float(table.sqrt_alpha_bar[0])
    said = f"sampling starts from pure noise at t={t:g}, where sqrt(alpha_bar)={signal:.3g}"
    if signal > _MOST_SIGNAL:
        raise ValueError(
            f"{said} of the image is left and must be at most {_MOST_SIGNAL}: visit later steps, or use noise that "
            "ends lower (noise=rescaled scales beta with 1000/T, noise=edm takes a larger sigma_max)."
        )
    if signal < _LEAST_SIGNAL:
        raise ValueError(
            f"{said} is less than float32 resolves ({_LEAST_SIGNAL:.1g}), so the predicted image has no digit: use "
            "smaller betas or earlier steps."
        )
    if signal > _MUCH_SIGNAL:
        said = f"{said} of the image is left: samples are off by about as much."
        warnings.warn(said, stacklevel=_callers_level())


def _callers_level() -> int:
    """The stacklevel of the line that called into this package, whatever decorators lie between."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in ("skipstone", "torch"):
        level, frame = level + 1, frame.f_back
    return level


def with_guidance(
    tables: Sequence[StepTable], weight: float | None, interval: Sequence[float] | None
) -> Sequence[StepTable]:
    """The tables, guided where there is a weight. Raises ValueError for an interval without one."""
    if weight is None:
        if interval is not None:
            raise ValueError("guidance_interval is where guidance is: give guidance as well, or leave it out.")
        return tables
    return [guided(table, weight, interval) for table in tables]


def require_labels(model: Model, tables: Sequence[StepTable], labels: Tensor | None, count: int) -> None:
    """Raise ValueError unless the model can be asked with these labels, and as the tables ask it."""
    classes, null = classes_of(model), null_label(model)
    guided = any(table.guided for table in tables)
    asked = "labels" if labels is not None else "guidance" if guided else None
    if asked is None:
        return
    if not classes:
        raise ValueError(
            f"{asked} is for a model with classes, and this one has none: leave it out, or say how many it has with "
            "skipstone.adapt(net, classes=...)."
        )
    if labels is None:
        raise ValueError("guidance is towards a label: give labels, int64 [n].")
    if any(bool(table.null.any()) for table in tables) and null is None:
        raise ValueError(
            "guidance needs a model that was also trained without labels (training.label_dropout above 0), and this "
            "one was not: leave guidance out."
        )
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(f"labels must be int64 [{count}], one per sample, got {labels.dtype} {list(labels.shape)}.")
    outside = (labels < 0) | (labels >= classes)
    wrong = labels[outside if null is None else outside & (labels != null)]
    if len(wrong):
        raise ValueError(f"labels has {wrong[0].item()}, and this model has the classes 0 ... {classes - 1}.")


def batch_of(batch_size: int | None, count: int) -> int:
    """The batch size that was asked for, or `count` up to a cap."""
    size = min(count, LARGEST_DEFAULT_BATCH) if batch_size is None else batch_size
    require_count("batch_size", size)
    return size


def starts(
    model: Model,
    shape: tuple[int, ...],
    seed: int,
    index: Tensor,
    start: Tensor | None,
    dtype: torch.dtype,
    scale: float = 1.0,
    first: int = 0,
) -> Tensor:
    """Where samples `index` start, on the model's device: [len(index), *shape] of `dtype`.

    It is `start`, whose own first sample is `first`, or else noise of the standard deviation `scale`.
    """
    parameter = own_parameter(model)
    if start is not None:
        return take(start, index - first, dim=0).to(start.device if parameter is None else parameter.device, dtype)
    device = torch.device("cpu") if parameter is None else parameter.device
    return scaled(normal(seed, Stream.START, index.to(device), shape, dtype=dtype), scale)


def scaled(x: Tensor, scale: float) -> Tensor:
    """scale · x, which is x itself for 1."""
    return x if scale == 1 else scale * x


def take(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """x at `index` along `dim`; an index past the end (padding) repeats the last entry."""
    return x.index_select(dim, index.clamp(max=x.shape[dim] - 1).to(x.device))

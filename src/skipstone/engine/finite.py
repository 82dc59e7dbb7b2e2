"""Samples that are not finite: which, and at which t the first such value appeared."""

from contextlib import closing
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from skipstone.engine.known import Known
from skipstone.engine.request import LARGEST_DEFAULT_BATCH, starts
from skipstone.engine.sampling import rows
from skipstone.engine.step import Model
from skipstone.solvers import StepTable

_NAMED = 8  # samples that a sentence lists


class NotFinite(NamedTuple):
    """Samples with at least one value that is NaN or infinite.

    samples: their indices k, ascending.
    total:   how many samples there are.
    t:       of the first row whose state was not finite; None where a second run of these samples was finite.
    """

    samples: list[int]
    total: int
    t: float | None

    @property
    def all(self) -> bool:
        """Whether no sample is finite."""
        return len(self.samples) == self.total

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.samples[:_NAMED])) + (", ..." if len(self.samples) > _NAMED else "")
        which = f"all {self.total} samples" if self.all else f"{len(self.samples)} of {self.total} samples ({listed})"
        when = "" if self.t is None else f"; the first value that is not finite appeared at t={self.t:g}"
        return f"{which} are not finite (NaN or infinite){when}"


def not_finite(
    model: Model,
    table: StepTable,
    x: Tensor,
    *,
    seed: int = 0,
    start: Tensor | None = None,
    first: int = 0,
    known: tuple[Tensor, Tensor] | None = None,
    labels: Tensor | None = None,
) -> NotFinite | None:
    """Which samples are not finite, and since which t. None where all are: that costs one look at x.

    model, table, seed, start, first, known, labels: with which `sample` or `sample_many` gave x.
    x:                                               [n, C, H, W], on any device.
    Samples that are not finite are run again, step by step, up to the first such row.
    """
    bad = (~x.reshape(len(x), -1).isfinite().all(dim=1)).nonzero().flatten().cpu()
    if not len(bad):
        return None
    pixels = None if known is None else Known.of(known, x.shape)
    t = _first_t(model, table, bad, tuple(x.shape[1:]), seed, start, labels, x.dtype, first, pixels)
    return NotFinite((bad + first).tolist(), len(x), t)


@torch.no_grad()
def _first_t(
    model: Model,
    table: StepTable,
    bad: Tensor,
    shape: tuple[int, ...],
    seed: int,
    start: Tensor | None,
    labels: Tensor | None,
    dtype: torch.dtype,
    first: int,
    known: Known | None,
) -> float | None:
    earliest = len(table.t)
    with torch.compiler.set_stance("force_eager"):  # a compiled network would be compiled again for this batch
        for places in bad.split(LARGEST_DEFAULT_BATCH):
            index = places + first
            x = starts(model, shape, seed, index, start, dtype, table.start_scale, first)
            pixels = None if known is None else known.at(places, x)
            own = None if labels is None else labels[places.to(labels.device)]
            with closing(rows(model, table, x, index, seed, known=pixels, labels=own)) as steps:
                finite = (bool(step.x.isfinite().all()) for step in islice(steps, earliest))
                earliest = next((i for i, fine in enumerate(finite) if not fine), earliest)
    return table.t[earliest].item() if earliest < len(table.t) else None

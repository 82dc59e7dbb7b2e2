"""Classifier-free guidance as rows of a table (Ho & Salimans 2021).

A guided step is two ordinary rows. The first asks with the sample's own label, leaves its x0 and moves nothing. The
second asks without a label, and mixes:

    eps = eps_null + w (eps_label − eps_null)        so        x0 = (1−w) x0_null + w x0_label

because x0 is linear in eps. So guidance works in whatever runs tables, and nfe counts what it costs.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from skipstone.checked import checked
from skipstone.solvers.table import StepTable


@checked
def guided(table: StepTable, weight: float, interval: Sequence[float] | None = None) -> StepTable:
    """The same table with guidance.

    table:    without guidance.
    weight:   w above, any number. 1 is the label alone, 0 no label at all: such steps cost one evaluation. Guidance
              begins above 1. (The paper's own w is this one less 1.)
    interval: [t_lo, t_hi], both included: elsewhere w is 1 (Kynkäänniemi et al. 2024). None is everywhere.

    A first row that asks no network stays as it is. Raises ValueError for a guided table, and for other numbers.
    """
    if table.guided or bool(table.null.any()):
        raise ValueError("this table is guided already: give the one without guidance.")
    if not math.isfinite(weight):
        raise ValueError(f"the weight of guidance must be a number, got {weight}: 1 is the label alone.")
    low, high = (-math.inf, math.inf) if interval is None else interval_of(interval)
    w = torch.where(table.evaluated & (table.t >= low) & (table.t <= high), float(weight), 1.0).double()
    double = (w != 0) & (w != 1)
    # where each row goes, and from which each comes
    at = torch.arange(len(w)) + double.cumsum(0)
    source = torch.repeat_interleave(torch.arange(len(w)), 1 + double.long())
    moved = table.rows(source)
    first = torch.zeros(len(source), dtype=torch.bool)
    first[at[double] - 1] = True
    columns = {"p": torch.where(first, moved.f, moved.p)}
    for name, value in {"a": 1.0, "b": 0.0, "s": 0.0, "u": 0.0, "v": 1.0}.items():
        columns[name] = torch.where(first, value, getattr(moved, name))
    columns["w"] = torch.where(double, w, 0.0)[source].masked_fill(first, 0.0)
    columns["null"] = (w != 1)[source] & ~first
    return replace(moved, c=_history(table.c, at, int(double.any())), **columns)


def interval_of(interval: Sequence[float]) -> tuple[float, float]:
    """(t_lo, t_hi). Raises ValueError for what is none."""
    if len(interval) != 2 or not interval[0] <= interval[1]:
        raise ValueError(f"guidance_interval={list(interval)} must be [t_lo, t_hi], two times of which t_lo is lower.")
    return float(interval[0]), float(interval[1])


def _history(c: torch.Tensor, at: torch.Tensor, least: int) -> torch.Tensor:
    """The weights of what was left, with rows between. Row i goes to at[i]; what came before all stays before all."""
    moved = {}
    for i, k in c.nonzero().tolist():
        j = i - 1 - k  # the row that left it; negative for what was there before the first
        moved[int(at[i]), int(at[i]) - 1 - (int(at[j]) if j >= 0 else j)] = c[i, k]
    wide = c.new_zeros(int(at[-1]) + 1, max([c.shape[1], least, *(k + 1 for _, k in moved)]))
    for place, weight in moved.items():
        wide[place] = weight
    return wide

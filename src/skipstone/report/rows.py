"""How the report reads results: which metrics there are, which cells make one curve, and how both are said.

A row holds what is known of a cell beside its metrics (Result.facts).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from skipstone.evaluation.evaluate import Result
from skipstone.evaluation.metrics import Measured

Row = dict[str, Any]

_KINDS = ("schedule", "solver", "sigma", "to_data", "clip_x0", "model")


def metrics(results: Sequence[Result]) -> list[str]:
    """The names of the metrics that at least one cell has a value of, in the results' order."""
    names = dict.fromkeys(name for result in results for name in result.measured)
    return [name for name in names if any(each is not None and each.finite for each in numbers(results, name))]


def numbers(results: Sequence[Result], metric: str) -> list[Measured | None]:
    """What one metric gave for each cell."""
    return [result.measured.get(metric) for result in results]


def families(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Which rows differ in tau and eta alone: their indices, by the schedule and by what else tells families apart."""
    by_sweep = swept(rows)
    models = {(*(row[key] for key in by_sweep), row.get("model")) for row in rows}
    told_apart = len(models) == len({model[:-1] for model in models})  # then that says more than the model's key
    kinds = [key for key in _KINDS if key != "model" or not told_apart] + by_sweep
    told = [key for key in kinds if key == "schedule" or len({row.get(key, "") for row in rows}) > 1]
    found: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        found.setdefault(", ".join(filter(None, (_told(key, row[key]) for key in told))), []).append(i)
    return found


def swept(rows: Sequence[Row]) -> list[str]:
    """The keys that a sweep varied and that are no columns of a cell: they stand before its model."""
    first = rows[0]
    return list(itertools.takewhile(lambda name: name != "model", first)) if "model" in first else []


def stops(rows: Sequence[Row]) -> list[int]:
    """Each row's rank by NFE, from 0; rows of one tau share a rank, as they differ in eta alone."""
    keys = [(row["nfe"], -1 if row["tau"] is None else row["tau"]) for row in rows]
    ranks = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    return [ranks[key] for key in keys]


def _told(key: str, value: Any) -> str:
    if key in ("schedule", "solver") or value == "":  # a solver without noise has no sigma
        return value
    return f"{key.rpartition('.')[2]}={str(value).lower()}"


def caption(row: Row) -> str:
    """Schedule, tau, eta and NFE in one line."""
    told = (_told(key, row[key]) for key in swept([row]))
    parts = [row["schedule"], *tau(row), f"η = {row['eta']:g}", f"NFE {row['nfe']}", *told]
    return ", ".join(parts)


def tau(row: Row) -> list[str]:
    """["τ = 20"], or nothing for a schedule that has no tau."""
    return [] if row["tau"] is None else [f"τ = {row['tau']}"]


def finite(value: float | None) -> bool:
    """Whether there is a value to draw: a cell may lack a metric, and samples that diverged have none."""
    return value is not None and math.isfinite(value)


def show(value: Any, digits: int = 3) -> str:
    """A value for the eye: floats to so many significant digits, a dash for what a cell does not have."""
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e6 else f"{value:.{digits}g}"

"""How the report reads results: which metrics there are, which cells make one curve, and how both are said.

A row holds what is known of a cell beside its metrics (Result.facts).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from skipstone.evaluation.evaluate import SETTINGS, Batch, Result
from skipstone.evaluation.metrics import Measured
from skipstone.evaluation.metrics.metric import best

Row = dict[str, Any]

_TELLING = ("fid", "fd_classifier", "fd_random", "kid_random")  # the most telling first: docs/metrics.md
_KINDS = ("schedule", "solver", "sigma", "to_data", "clip_x0", "model")


def metrics(results: Sequence[Result]) -> list[str]:
    """The names of the metrics that at least one cell has a value of, in the results' order."""
    names = dict.fromkeys(name for result in results for name in result.measured)
    return [name for name in names if any(each is not None and each.finite for each in numbers(results, name))]


def numbers(results: Sequence[Result], metric: str) -> list[Measured | None]:
    """What one metric gave for each cell."""
    return [result.measured.get(metric) for result in results]


def telling(results: Sequence[Result]) -> str | None:
    """Of the distances that there are, the most telling one."""
    measured = metrics(results)
    return next((name for name in _TELLING if name in measured), None)


def nearest(results: Sequence[Result], metric: str | None) -> int | None:
    """Which cell is the best by one metric; None where none has it."""
    found = [] if metric is None else numbers(results, metric)
    first = best(found)
    return None if first is None else found.index(first)


def batches(results: Sequence[Result]) -> list[Batch]:
    """The samplings of several cells at once that these cells come from, each once."""
    return list(dict.fromkeys(result.batch for result in results if result.batch and result.batch.cells > 1))


def time(results: Sequence[Result]) -> str:
    """What was measured of the sampling's time, in a sentence; nothing where each cell has a time of its own."""
    together = batches(results)
    if not together:  # or it is not known
        return ""
    seconds = show(sum(batch.seconds for batch in together))
    count = sum(result.batch in together for result in results)
    if len(together) > 1:
        return f"{count} cells were sampled in {len(together)} batches, which took {seconds} s in all."
    which = f"All {count}" if count == len(results) else f"{count} of the {len(results)}"
    return f"{which} cells were sampled in one batch, which took {seconds} s."


def lost(results: Sequence[Result]) -> list[str]:
    """One sentence for each cell whose samples are not all finite."""
    return [f"{result.name}: {result.lost}." for result in results if result.lost is not None]


def choices(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """What cells were set to, by setting: one value that all share, or those in which they differ."""
    found = {name: list(dict.fromkeys(row.get(name) for row in rows)) for name in (*swept(rows), *SETTINGS, "images")}
    return {name: values for name, values in found.items() if values not in ([""], [None])}


def told_apart(rows: Sequence[Row]) -> list[str]:
    """What tells families apart: the schedule, and whatever else but tau and eta differs."""
    by_sweep = swept(rows)
    models = {(*(row[key] for key in by_sweep), row.get("model")) for row in rows}
    enough = len(models) == len({model[:-1] for model in models})  # then that says more than the model's key
    kinds = [key for key in _KINDS if key != "model" or not enough] + by_sweep
    return [key for key in kinds if key == "schedule" or len({row.get(key, "") for row in rows}) > 1]


def families(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Which rows differ in tau and eta alone: their indices, by the schedule and by what else tells families apart."""
    told = told_apart(rows)
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
    said = str(value).lower() if isinstance(value, bool) else value
    return f"{key.rpartition('.')[2]}={said}"


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


def printable(text: str) -> str:
    """Text as a picture or a terminal can show it: codes for bytes that are no UTF-8, and no control signs."""
    codes = text.encode("utf-8", "backslashreplace").decode()
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in codes)

"""Which rows of results.json a section is about, and how values are said there."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from skipstone.evaluation.metrics.metric import read
from skipstone.report.rows import Row, finite, show

_DISTANCES = ("fid", "fd_classifier", "fd_random")  # the most telling first


def fd_names(rows: Iterable[Row]) -> list[str]:
    """The Fréchet distances that the rows have, the most telling first."""
    names = {name for row in rows for name in row}
    return [name for name in _DISTANCES if name in names]


def floor(row: Row, name: str) -> float | None:
    """The score of the same number of held-out real images by a metric; None where the row lacks the metric."""
    measured = read(row).get(name)
    return None if measured is None else measured.floor


def table_1(rows: Sequence[Row], every_step: bool = False) -> list[Row]:
    """The rows of Table 1 at the larger number of images, or those over every step."""
    cells = [row for row in rows if row["part"].startswith("table 1")]
    return [row for row in cells if row["part"].endswith("every step") == every_step]


def part(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of one other part."""
    return [row for row in rows if row["part"] == name]


def best_cell(rows: Sequence[Row]) -> Row | None:
    """Of Table 1 at the larger number of images, that with the smallest distance; None where there is none."""
    names = fd_names(rows)
    cells = [row for row in table_1(rows) if names and finite(row.get(names[0]))]
    return min(cells, key=lambda row: row[names[0]], default=None)


def value(thing: Any) -> str:
    """For a cell of a table: counts with separators, distances to three digits."""
    if isinstance(thing, bool):
        return str(thing).lower()
    if isinstance(thing, int):
        return f"{thing:,}"
    if isinstance(thing, (list, dict)):
        return json.dumps(thing)
    return show(thing)

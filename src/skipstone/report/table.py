"""evaluation.csv, and the same table for the eye."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from skipstone.evaluation import Result

_SHOWN = ("schedule", "tau", "eta", "nfe", "solver_rmse", "fd_random", "kid_random", "seconds")


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One row a cell; a value that a cell does not have is empty."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(results[0].row))
        writer.writeheader()
        writer.writerows(result.row for result in results)


def print_table(results: Sequence[Result]) -> None:
    """The cells on the terminal, the user's own in bold; the floors stand in the headings."""
    first = results[0].row
    table = Table(title=f"{first['images']} images a cell, the same start noise in each")
    for name in _SHOWN:
        floor = first.get(f"{name}_floor")
        table.add_column(name if floor is None else f"{name}\n(floor {floor:.3g})", justify="right")
    for result in results:
        cells = [_show(result.row[name]) for name in _SHOWN]
        table.add_row(*cells, style="bold" if result.cell.own else None)
    Console().print(table)


def _show(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""evaluation.csv, and the same table for the eye."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from skipstone.evaluation import Result

_SHOWN = ("schedule", "tau", "eta", "nfe", "solver_rmse", "fd_random", "kid_random", "seconds")


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One row a cell; a value that a cell does not have is empty."""
    write_rows([result.row for result in results], path)


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Rows with the same keys as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def print_rows(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Rows with the same keys on the terminal."""
    table = Table(*rows[0], title=title, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(_show(value) for value in row.values()))
    Console().print(table)


def print_table(results: Sequence[Result]) -> None:
    """The cells on the terminal, the user's own in bold, and below them what as many real images score."""
    first = results[0].row
    table = Table(title=f"{first['images']} images a cell, the same start noise in each", box=box.SIMPLE_HEAD)
    for name in _SHOWN:
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(*(_show(result.row[name]) for name in _SHOWN), style="bold" if result.cell.own else None)
    floors = [_show(first[f"{name}_floor"]) if f"{name}_floor" in first else "" for name in _SHOWN[1:]]
    table.add_section()
    table.add_row("floor", *floors, style="dim")
    Console().print(table)


def _show(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)

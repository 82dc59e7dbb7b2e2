"""evaluation.csv, and the same table for the eye."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from skipstone.evaluation.evaluate import Result
from skipstone.report.rows import floor, metrics, show, swept
from skipstone.store import files


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One row a cell; a value that a cell does not have is empty."""
    write_rows([result.row for result in results], path)


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Rows as CSV, with every column that one of them has."""
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    files.write(path, content.getvalue().encode())


def print_rows(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Rows with the same keys on the terminal."""
    table = Table(*rows[0], title=title, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*(show(value) for value in row.values()))
    Console().print(table)


def print_table(results: Sequence[Result]) -> None:
    """The cells on the terminal, the user's own in bold, and below them what as many real images score.

    Metrics for which a narrow terminal has no room are named below the table, not cut in half.
    """
    console = Console()
    endless = console.options.update(max_width=10_000)
    rows = [result.row for result in results]
    limits = [name for name in rows[0] if name.endswith("_infinity")]
    columns = [*metrics(rows), *limits, "seconds"]
    left_out: list[str] = []
    while console.measure(_table(results, columns), options=endless).maximum > console.width and len(columns) > 1:
        left_out.insert(0, columns.pop())
    console.print(_table(results, columns))
    if left_out:
        console.print(f"In evaluation.csv, for want of room here: {', '.join(left_out)}", style="dim")


def _table(results: Sequence[Result], columns: Sequence[str]) -> Table:
    """The settings of each cell that commonly differ, and these columns."""
    first = results[0].row
    noise = "" if "seed" in swept([first]) else ", the same start noise in each"
    title = f"{first['images']} images a cell{noise}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    settings = [*swept([first]), "schedule", "tau", "eta", "nfe"]
    shown = [*settings, *columns]
    for name in shown:
        table.add_column(name.replace("_", "\n", 1), justify="right", no_wrap=True)
    for result in results:
        values = (show(result.row.get(name)) for name in shown)
        table.add_row(*values, style="bold" if result.own else None)
    table.add_section()
    floors = {name: show(floor(first, name)) for name in [*metrics([first]), *columns] if name != "seconds"}
    table.add_row("floor", *[""] * (len(settings) - 1), *(floors.get(name, "") for name in columns), style="dim")
    return table

"""Rows on the terminal, for the eye."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from skipstone.evaluation.evaluate import Result
from skipstone.evaluation.metrics import limits_of, metrics_of
from skipstone.report.rows import show, swept


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
    columns = [*(metric.name for metric in (*metrics_of(rows), *limits_of(rows))), "seconds"]
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
    rows = [result.row for result in results]
    floors = {metric.name: show(metric.floor(first)) for metric in (*metrics_of(rows), *limits_of(rows))}
    table.add_row("floor", *[""] * (len(settings) - 1), *(floors.get(name, "") for name in columns), style="dim")
    return table

"""Tables on the terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skipstone.evaluation.evaluate import Result
from skipstone.evaluation.metrics import Measured
from skipstone.evaluation.metrics.metric import leading, limit_name
from skipstone.evaluation.seeds import SEEDS
from skipstone.report.rows import finite, metrics, numbers, printable, show, swept, time


def _console() -> Console:
    """A terminal to which text is text: [b] in a name is no markup, and :x: no picture."""
    return Console(markup=False, emoji=False)


def print_rows(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Rows with the same keys. The first column is never cut short, because it is the name that a user types."""
    table = Table(*rows[0], title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.columns[0].no_wrap, table.columns[0].overflow = True, "fold"
    for row in rows:
        table.add_row(*(printable(show(value)) for value in row.values()))
    _console().print(table)


def print_table(results: Sequence[Result], averaged: Sequence[Result] = ()) -> None:
    """The cells, or their means over seeds where these are given, and below them what as many real images score.

    In bold the best value of a metric and those that cannot be told from it. The user's own cell is marked by an
    arrow. Columns for which a narrow terminal has no room are named below the table, not cut in half.
    """
    console, compared = _console(), averaged or results
    endless = console.options.update(max_width=10_000)
    columns = _columns(compared)
    left_out: list[str] = []
    while console.measure(_table(compared, columns), options=endless).maximum > console.width and len(columns) > 1:
        name = next(reversed(columns))
        del columns[name]
        left_out.insert(0, name)
    console.print(_table(compared, columns))
    if said := time(results):
        console.print(said, style="dim")
    if left_out:
        file = "averages.csv" if averaged else "evaluation.csv"
        console.print(f"In {file}, for want of room here: {', '.join(left_out)}", style="dim")


_Column = tuple[list[Text], str]  # each cell's value, and the floor


def _columns(results: Sequence[Result]) -> dict[str, _Column]:
    """The numbers that a table shows, by name: metrics, their limits, seconds."""
    columns: dict[str, _Column] = {}
    limits: dict[str, _Column] = {}
    for name in metrics(results):
        found = numbers(results, name)
        styles = ["bold" if best else "" for best in leading(found)]
        values = [_value(each, SEEDS in result.facts) for each, result in zip(found, results, strict=True)]
        texts = [Text(value, style) for value, style in zip(values, styles, strict=True)]
        columns[name] = (texts, show(found[0] and found[0].floor))
        if any(each is not None and finite(each.limit) for each in found):
            limits[limit_name(name)] = (
                [Text(show(each and each.limit)) for each in found],
                show(found[0] and found[0].limit_floor),
            )
    times = [result.facts["seconds"] for result in results]
    measured = {"seconds": ([Text(show(time)) for time in times], "")} if any(map(finite, times)) else {}
    return columns | limits | measured


def _value(measured: Measured | None, over_seeds: bool) -> str:
    value = show(measured and measured.value)
    return f"{value} ± {show(measured.spread, 2)}" if over_seeds and measured and measured.spread else value


def _table(results: Sequence[Result], columns: dict[str, _Column]) -> Table:
    """The settings of each cell that commonly differ, and these columns."""
    first = results[0].facts
    noise = "" if "seed" in swept([first]) else ", the same start noise in each"
    if SEEDS in first:
        noise = ": mean ± standard deviation over seeds"
    title = f"{first['images']} images a cell{noise}"
    bold = any(text.style for texts, _ in columns.values() for text in texts)
    caption = "bold: the best of a column, and what cannot be told from it" if bold else None
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    settings = [*swept([first]), "schedule", "tau", "eta", "nfe", *([SEEDS] if SEEDS in first else [])]
    for name in (*settings, *columns):
        table.add_column(name.replace("_", "\n", 1), justify="right", no_wrap=True)
    marked = any(result.own for result in results) and len(results) > 1
    for i, result in enumerate(results):
        told = [printable(show(result.facts.get(name))) for name in settings]
        told[0] = f"→ {told[0]}" if marked and result.own else told[0]
        table.add_row(*told, *(texts[i] for texts, _ in columns.values()))
    table.add_section()
    floors = [floor for _, floor in columns.values()]
    table.add_row("floor", *[""] * (len(settings) - 1), *floors, style="dim")
    return table

"""results.md from top to bottom, and what lies beside it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skipstone.report import csv, curves
from skipstone.report.pictures import save_grid
from skipstone.store import files
from skipstone.studies.paper import comparisons, pictures, story, tables
from skipstone.studies.paper.ledger import Ledger
from skipstone.studies.paper.select import best_cell

PICTURES = {
    "curves": "results-curves.png",
    "samples": "results-samples.png",
    "best": "results-best.png",
    "loss": "results-loss.png",
}


def write(ledger: Ledger, metrics_csv: Path) -> Path:
    """Write the pictures, results.csv and results.md into the ledger's folder; metrics_csv: the model's."""
    folder, rows = ledger.folder, ledger.rows
    if rows:
        csv.write_rows(rows, folder / "results.csv")
    pictures.save_curves(rows, folder / PICTURES["curves"])
    pictures.save_samples(rows, ledger.samples, folder / PICTURES["samples"])
    best = best_cell(rows)
    if best is not None and best["cell"] in ledger.samples:
        save_grid(ledger.samples[best["cell"]], folder / PICTURES["best"])
    curve = curves.training_curve(metrics_csv)
    if curve is not None:
        files.write(folder / PICTURES["loss"], curve.png)
    return write_page(ledger)


def write_page(ledger: Ledger) -> Path:
    """Write results.md alone, with those of the pictures that are there."""
    folder = ledger.folder
    there = {name for name, file in PICTURES.items() if (folder / file).is_file()}
    with files.replacing(folder / "results.md") as path:
        path.write_text(page(ledger.results, there))
    return folder / "results.md"


def page(results: dict[str, Any], there: Iterable[str]) -> str:
    """The Markdown. results: as in results.json.  there: which of PICTURES there are."""
    rows = [row for part in results["parts"].values() for row in part["rows"]]
    shown = {name: PICTURES[name] for name in there}
    sections = [
        story.top(results),
        story.reading(results, rows),
        tables.table_1(rows),
        tables.samples(rows, shown),
        tables.table_2(rows),
        comparisons.schedules(results, rows),
        comparisons.solvers(results, rows, shown),
        comparisons.precision(rows),
        story.model(results, rows, shown),
        story.time(results),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"

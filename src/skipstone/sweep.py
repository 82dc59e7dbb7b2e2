"""A multirun read as one thing: evaluation.csv, curves.png, contact.png and report.html over all of its jobs."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import OmegaConf

from skipstone import archive
from skipstone.command import FAILURE, SWEEP, past_overrides
from skipstone.evaluation import Result
from skipstone.report import curves, page, sheet, table


@dataclass(frozen=True)
class Failure:
    """A job without results: its number, its overrides, and why in one sentence."""

    job: str
    overrides: str
    why: str


def report(folder: Path) -> Path | None:
    """Write the sweep's table, pictures and page into its folder; the page's path, or None where no job has results.

    Jobs that failed or never began are named on the page and on the terminal. Raises FileNotFoundError for a folder
    that is no sweep's, ValueError for one whose command cannot be read.
    """
    _, overrides = past_overrides(folder)
    results, failures = _collect(folder)
    notes = [f"Job {failure.job} ({failure.overrides}) has no result: {failure.why}" for failure in failures]
    for note in notes:
        print(note)
    if not results:
        return None
    table.write_csv(results, folder / "evaluation.csv")
    curves.save_curves([result.row for result in results], folder / "curves.png")
    sheet.save_sheet(results, folder / "contact.png")
    models = sorted({result.row["model"] for result in results})
    story = page.Story(
        model=" and ".join(models),
        config=(folder / SWEEP).read_text(),
        command=shlex.join(["python", "train.py", "-m", *overrides]),
        notes=notes,
    )
    path = page.write_page(results, folder, story)
    table.print_table(results)
    return path


def _collect(folder: Path) -> tuple[list[Result], list[Failure]]:
    """The cells of all jobs, each once, and the jobs that have none."""
    found: dict[str, Result] = {}
    failures = []
    for job in sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)):
        try:
            results = archive.load(job) if archive.there(job) else []
        except ValueError as error:
            failures.append(Failure(job.name, _overrides(job), str(error)))
            continue
        if not results:
            failures.append(Failure(job.name, _overrides(job), _why(job)))
        for result in results:
            found.setdefault(f"{result.row['model']}/{result.name}", replace(result, own=False))
    return _distinct(list(found.values())), failures


def _distinct(results: Sequence[Result]) -> list[Result]:
    """Cells of several models are told apart by name."""
    if len({result.row["model"] for result in results}) < 2:
        return list(results)
    return [archive.renamed(result, f"{result.row['model']}-{result.name}") for result in results]


def _overrides(job: Path) -> str:
    path = job / ".hydra" / "overrides.yaml"
    return " ".join(OmegaConf.load(path)) if path.is_file() else "which never began"


def _why(job: Path) -> str:
    path = job / FAILURE
    return path.read_text().strip() if path.is_file() else "it did not come to its end."

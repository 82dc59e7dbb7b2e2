"""A multirun read as one thing: evaluation.csv, curves.png, contact.png and report.html over all of its jobs."""

import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.errors import HydraException

from skipstone.commands.sweeps import overview
from skipstone.commands.sweeps.folder import FAILURE, OVERVIEW, command, job_overrides, same_job, spelt, typed
from skipstone.commands.sweeps.overview import Told
from skipstone.commands.words import unquoted
from skipstone.evaluation import results as archive
from skipstone.evaluation import seeds
from skipstone.evaluation.evaluate import CLOCK, Result
from skipstone.report import csv, curves, page, rows, sheet, terminal
from skipstone.report.decoration import decoration
from skipstone.store import files


@dataclass(frozen=True)
class Failure:
    """A job without results: its number, its overrides, and why in one sentence."""

    job: int
    overrides: str
    why: str


def report(folder: Path) -> Path | None:
    """Write the sweep's table, pictures and page into its folder; the page's path, or None where no job has results.

    Jobs that failed or never began are named on the page and on the terminal. Raises FileNotFoundError for a folder
    that is no sweep's, ValueError for one whose command cannot be read.
    """
    past, whole = command(folder), typed(folder)
    results, failures, told = _collect(folder)
    notes = [f"Job {failure.job} ({failure.overrides}) has no result: {failure.why}" for failure in failures]
    if notes:
        short = shlex.join(["python", "train.py", f"resume={folder}"])
        notes += [f"To run what has no result: {short}", f"That is, in full: {whole}"]
    for note in notes:
        print(spelt(note))
    if any((folder / str(failure.job) / FAILURE).is_file() for failure in failures):  # it ended by itself
        print(
            "That runs them with the same settings: where one was refused, give a new command with the right value "
            "instead; finished models are used again."
        )
    if not results:
        return None
    averaged = seeds.average(results)
    csv.write_csv(results, folder / "evaluation.csv")
    if averaged:
        csv.write_csv(averaged, folder / "averages.csv")
    with decoration("curves.png"):
        curves.save_curves(averaged or results, folder / "curves.png")
    with decoration("contact.png"):
        sheet.save_sheet(results, folder / "contact.png")
    losses = curves.training_curves(overview.losses(told))
    story = page.Story(
        model=overview.title(results),
        config=(folder / OVERVIEW).read_text(errors="replace"),
        command=shlex.join(["python", "train.py", "-m", *past.hydra, *past.task]),
        training_curve=losses and losses.embedded,
        notes=[*notes, *rows.lost(results)],
        overview=page.Overview(overview.trainings(told), overview.memory(told), averaged),
    )
    path = page.write_page(results, folder, story)
    terminal.print_table(results, averaged)
    return path


def _collect(folder: Path) -> tuple[list[Result], list[Failure], list[Told]]:
    """The cells of all jobs, each once, the jobs that have none, and what the others tell beside their cells."""
    found: dict[str, tuple[int, Result]] = {}
    failures: list[Failure] = []
    others: list[Told] = []
    jobs = _jobs(folder)
    varied = _varied([overrides for overrides in jobs.values() if overrides is not None])
    for number, overrides in jobs.items():
        job, said = folder / str(number), "?" if overrides is None else " ".join(overrides)
        try:
            results, about = archive.load(job), archive.about(job)
        except (OSError, ValueError) as error:
            failures.append(Failure(number, said, _why(job, error)))
            continue
        of = archive.command(job)
        if overrides is not None and of is not None and not same_job(of, overrides):
            failures.append(Failure(number, said, f"its results are of another job ({of})."))
            continue
        settings = _settings(overrides or [])
        for result in results:
            told = {key: settings.get(key) for key in varied if key.rpartition(".")[2] not in result.facts}
            result = replace(result, facts={**told, **result.facts})
            if result.own:
                others.append((result.facts, about))
            same = repr({name: value for name, value in result.row.items() if name not in CLOCK})
            found.setdefault(same, (number, replace(result, own=False)))
    return _distinct(list(found.values())), failures, others


def _settings(overrides: Sequence[str]) -> dict[str, str]:
    return {key.lstrip("+"): unquoted(value) for key, _, value in (word.partition("=") for word in overrides)}


def _varied(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys whose values differ among the jobs."""
    settings = [_settings(job) for job in jobs]
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({each.get(key) for each in settings}) > 1]


def _jobs(folder: Path) -> dict[int, list[str] | None]:
    """The overrides of every job by its number: those of the command line, and what further folders say, if they do."""
    there = {int(path.name): path / ".hydra" / "overrides.yaml" for path in folder.iterdir() if path.name.isdigit()}
    jobs: dict[int, list[str] | None] = dict.fromkeys(there)
    for number, path in there.items():
        # absent as yet, or torn
        with suppress(OSError, ValueError, TypeError, AttributeError):
            jobs[number] = [word for word in files.read_yaml(path) if not word.startswith("resume=")]
    with suppress(HydraException):  # of another sweeper, whose jobs its command line does not tell
        jobs |= enumerate(job_overrides(folder))
    return dict(sorted(jobs.items()))


def _distinct(found: Sequence[tuple[int, Result]]) -> list[Result]:
    """Cells of several models are told apart by name, and so are those that differ in what no name tells, by job."""
    models = len({result.facts["model"] for _, result in found})
    names = [f"{result.row['model']}-{result.name}" if models > 1 else result.name for _, result in found]
    often = Counter(names)
    return [
        archive.renamed(result, name if often[name] == 1 else f"{name}-job{job}")
        for name, (job, result) in zip(names, found, strict=True)
    ]


def _why(job: Path, error: Exception) -> str:
    if archive.there(job):
        return f"its results cannot be read ({error})."
    try:
        return (job / FAILURE).read_text(errors="replace").strip()
    except OSError:
        return "it has not come to its end." if job.is_dir() else "it has not begun."

"""One page over all jobs of a sweep: python scripts/report.py outputs/sweeps/<date>/<time>-<pid>

A sweep writes it by itself at its end, also after a failure; this does it again, or while a sweep still runs.
"""

from skipstone.commands.called import parser
from skipstone.commands.cli import main
from skipstone.commands.sweeps.folder import command
from skipstone.commands.words import home_path


def job() -> None:
    """Writes evaluation.csv, curves.png, contact.png and report.html into the sweep's folder."""
    words = parser("report", __doc__)
    words.add_argument("sweep", type=home_path, help="the sweep's folder")
    folder = words.parse_args().sweep
    command(folder)  # refuses what is no sweep, before more is imported
    from skipstone.commands.sweeps import report

    path = report.report(folder)
    if path is None:
        raise ValueError(f"no job of {folder} has a result: what became of each is said above.")
    print(f"Look next at {path}")


if __name__ == "__main__":
    main(job)

"""Speed here, and beside diffusers: python scripts/benchmark.py <what> [overrides as for train.py] [--json FILE]

training: Lightning's fit over a bare loop with the same module; --minutes M also trains that long without a break.
sampling: engine.sample over as many bare calls of the network, at evaluation.batch_size; then at n = 1, 4 and 16.
grid: 4 taus × 3 etas × 200 images, all cells in one batch that stays full, and one cell after the other.
history: the packed engine on tables that read one earlier row and nine; K = 9 over K = 1 is the last column.
startup: seconds of --help and --cfg job, and from the command to the end of the first training step.
checkpoint: seconds of a checkpoint over those of the steps between two of them.
sweep: a multirun of 12 jobs beside one training and its 12 samplings alone; a quarter of an hour on a CPU.
table: Markdown from files that --json wrote (their names in place of overrides); --into FILE puts it into a page.

All but the last three print images/s, evaluations/s, TFLOP/s, the share of a matrix product's rate, and the time
over that of the first row. Medians over rounds in which all contenders take turns; each is warm by then.
"""

import argparse

from skipstone.commands.called import parser
from skipstone.commands.cli import main
from skipstone.commands.words import home_path

WHAT = ("training", "sampling", "grid", "history", "startup", "checkpoint", "sweep", "table")


def arguments() -> argparse.Namespace:
    """The command line."""
    words = parser("benchmark", __doc__)
    words.add_argument("what", choices=WHAT)
    words.add_argument("overrides", nargs="*")
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--steps", type=int, default=50, help="of a sample, of each loop a round, or bare calls a round")
    words.add_argument("--json", type=home_path, help="also write everything there, single rounds included")
    words.add_argument("--budget", type=float, default=float("inf"), help="seconds; what does not fit is left out")
    words.add_argument("--profile", action="store_true", help="of sampling and training: where the time goes")
    words.add_argument("--into", type=home_path, help="of table: a page with lines <!-- NAME --> and <!-- /NAME -->")
    words.add_argument("--minutes", type=float, default=0.0, help="of sustained training")
    words.add_argument(
        "--peer",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="measure diffusers, too; by default where it is installed and the network is the papers' own",
    )
    return words.parse_intermixed_args()


def run() -> None:
    """One benchmark, or the table of past ones."""
    a = arguments()
    if a.what == "table":
        from skipstone.studies.speed.markdown import table

        print(table(a.overrides, a.into))
        return
    if a.what == "sweep":
        from skipstone.studies.speed.sweep import sweep

        sweep(a.overrides)
        return
    from skipstone.studies.speed import peers
    from skipstone.studies.speed.clock import Budget
    from skipstone.studies.speed.report import Report
    from skipstone.studies.speed.subject import Subject

    budget, subject = Budget(a.budget), Subject.of(a.overrides)
    peer = peers.wanted(subject, a.peer)
    report = Report(a.what, subject, a.json)
    if a.what == "training":
        from skipstone.studies.speed.training import training

        training(subject, report, a.rounds, a.steps, budget, peer, a.profile, a.minutes)
    elif a.what == "sampling":
        from skipstone.studies.speed.sampling import sampling

        sampling(subject, report, a.rounds, a.steps, budget, peer, a.profile)
    elif a.what == "grid":
        from skipstone.studies.speed.grid import grid

        grid(subject, report, a.rounds, a.steps, budget, peer)
    elif a.what == "history":
        from skipstone.studies.speed.history import history

        history(subject, report, a.rounds, budget)
    elif a.what == "startup":
        from skipstone.studies.speed.startup import startup

        startup(subject, report, a.rounds, a.overrides, budget, peer)
    else:
        from skipstone.studies.speed.checkpoint import checkpoint

        checkpoint(subject, report, a.rounds, a.steps)


if __name__ == "__main__":
    main(run)

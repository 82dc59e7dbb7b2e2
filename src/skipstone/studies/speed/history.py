"""What history costs: the same samples by tables that read one earlier row, and nine."""

from dataclasses import replace

import torch
from torch.nn.functional import pad

from skipstone import engine, schedules, solvers
from skipstone.network import placement
from skipstone.solvers import StepTable
from skipstone.studies.speed import clock
from skipstone.studies.speed.clock import Budget
from skipstone.studies.speed.report import Report
from skipstone.studies.speed.sampling import contender
from skipstone.studies.speed.subject import Subject

COLUMNS = (1, 9)  # K
_STEPS, _BATCHES = 50, 2


def tables(subject: Subject) -> dict[int, StepTable]:
    """By K a table of DPM-Solver++(2M): the columns that are added to its one are zero, and are read all the same."""
    table = solvers.DPMSolverPP(2).table(subject.process, schedules.Exp(_STEPS)(subject.process.num_steps))
    return {K: replace(table, c=pad(table.c, (0, K - table.c.shape[1]))) for K in COLUMNS}


def history(subject: Subject, report: Report, rounds: int, budget: Budget) -> None:
    """The packed engine with K = 1 and K = 9, in turns; the first is what the other compares with."""
    size = subject.config.evaluation.batch_size
    net = placement.place(subject.network(), subject.settings, subject.process.num_steps).eval()

    def sampled(table: StepTable) -> list[torch.Tensor]:
        return engine.sample_many(net, [table], _BATCHES * size, subject.shape, batch_size=size)

    contenders = [
        contender(subject, f"K = {K}", lambda table=table: sampled(table), _BATCHES * size, table.nfe)
        for K, table in tables(subject).items()
    ]
    with torch.no_grad(), placement.autocast(subject.settings):
        report.add(*clock.alternate(contenders, rounds, budget), f"history, batch {size}")

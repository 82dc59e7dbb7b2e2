"""A grid of 4 taus × 3 etas × 200 images: all cells in one batch that stays full, and one cell after the other."""

import torch

from skipstone import engine, schedules, solvers
from skipstone.network import placement
from skipstone.studies.speed import clock, peers
from skipstone.studies.speed.clock import Budget
from skipstone.studies.speed.report import Report
from skipstone.studies.speed.sampling import contender, peer_contender
from skipstone.studies.speed.subject import Subject

TAUS, ETAS, IMAGES = (5, 10, 20, 50), (0.0, 0.5, 1.0), 200


def grid(subject: Subject, report: Report, rounds: int, calls: int, budget: Budget, peer: bool) -> None:
    """Beside bare calls of the network at batch evaluation.batch_size, which are what the grid would take at best.

    calls: how many of them a round. diffusers has no packing: it goes cell by cell, at a batch of its own.
    """
    device, size = subject.device, subject.config.evaluation.batch_size
    net, process = (
        placement.place(subject.network(), subject.settings, subject.process.num_steps).eval(),
        subject.process,
    )
    pairs = [(tau, eta) for tau in TAUS for eta in ETAS]
    tables = [solvers.DDIM(eta).table(process, schedules.Exp(tau)(process.num_steps)) for tau, eta in pairs]
    nfe = sum(table.nfe for table in tables)
    x, t = torch.randn(size, *subject.shape, device=device), torch.full((size,), 500, device=device)

    def packed() -> None:
        engine.sample_many(net, tables, IMAGES, subject.shape, batch_size=size)

    def by_cell() -> None:
        for table in tables:
            engine.sample(net, table, IMAGES, subject.shape, batch_size=size)

    def by_peer(draw: peers.Draw) -> None:
        for (_, eta), table in zip(pairs, tables, strict=True):
            draw(IMAGES, table.nfe, eta)

    n, each = len(tables) * IMAGES, nfe / len(tables)
    contenders = [
        contender(subject, "network alone", lambda: [net(x, t) for _ in range(calls)], calls * size, 1),
        contender(subject, "sample_many", packed, n, each),
        contender(subject, "cell by cell", by_cell, n, each),
    ]
    for name, build in peers.samplers(subject).items() if peer else ():
        contenders.append(peer_contender(subject, name, build, by_peer, n, each))
    with torch.no_grad(), placement.autocast(subject.settings):
        report.add(*clock.alternate(contenders, rounds, budget), f"{len(tables)} cells × {IMAGES}, batch {size}")

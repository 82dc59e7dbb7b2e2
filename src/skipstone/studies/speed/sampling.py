"""engine.sample beside as many bare calls of its network, beside diffusers, and at the small batches of a person."""

from collections.abc import Callable

import torch
from torch import nn

from skipstone import engine, schedules, solvers
from skipstone.network import placement
from skipstone.solvers import StepTable
from skipstone.studies.speed import clock, peers, profiles
from skipstone.studies.speed.clock import Budget, Contender
from skipstone.studies.speed.report import Report
from skipstone.studies.speed.subject import Subject

SMALL = (1, 4, 16)


def sampling(
    subject: Subject, report: Report, rounds: int, steps: int, budget: Budget, peer: bool, profile: bool
) -> None:
    """DDIM, eta = 0, over `steps` evenly spaced steps, evaluation.batch_size images a round.

    Then the latency of a step at batches of 1, 4 and 16; with CUDA over the sum of its kernels' times, too.
    """
    device, size = subject.device, subject.config.evaluation.batch_size
    net = placement.place(subject.network(), subject.settings, subject.process.num_steps).eval()
    table = solvers.DDIM().table(subject.process, schedules.Linspace(steps)(subject.process.num_steps))
    x, t = torch.randn(size, *subject.shape, device=device), torch.full((size,), 500, device=device)
    contenders = [
        contender(subject, "network alone", lambda: [net(x, t) for _ in range(table.nfe)], size, table.nfe),
        contender(
            subject, "engine.sample", lambda: engine.sample(net, table, start=x, batch_size=size), size, table.nfe
        ),
    ]
    for name, build in peers.samplers(subject).items() if peer else ():
        contenders.append(peer_contender(subject, name, build, lambda draw: draw(size, steps, 0.0), size, table.nfe))
    with torch.no_grad(), placement.autocast(subject.settings):
        report.add(*clock.alternate(contenders, rounds, budget), f"batch {size}, {table.nfe} steps")
        if profile:
            profiles.add_to(report, "engine.sample", lambda: engine.sample(net, table, start=x, batch_size=size))
        small_batches(subject, report, net, table, rounds, budget)


def small_batches(
    subject: Subject, report: Report, net: nn.Module, table: StepTable, rounds: int, budget: Budget
) -> None:
    """What a step takes where there is too little work to keep the device busy."""
    found = []
    for n in SMALL:
        if budget.left <= 0:
            report.content["left_out"].append(f"batch {n}: the budget is spent")
            print(f"left out: batch {n}, for the budget is spent")
            continue
        start = torch.randn(n, *subject.shape, device=subject.device)

        def sample(start: torch.Tensor = start, n: int = n) -> object:
            return engine.sample(net, table, start=start, batch_size=n)

        ((measured,), _) = clock.alternate([contender(subject, f"n={n}", sample, n, table.nfe)], rounds, budget)
        step = 1e3 * measured.median / table.nfe
        line = f"n={n:3d}: {step:8.3f} ms a step"
        row = {"n": n, "milliseconds": step, "seconds": measured.seconds}
        if subject.device.type == "cuda":
            row["kernels"] = sum(k.milliseconds for k in profiles.kernels(sample, subject.device)) / table.nfe
            line += f", {row['kernels']:.3f} ms of kernels: {step / row['kernels']:.2f} ×"
        found.append(row)
        report.content["small"] = found
        print(line)
        report.write()


def contender(
    subject: Subject, name: str, call: Callable[[], object], images: int, nfe: float, peer: bool = False
) -> Contender:
    """A call that makes so many images of nfe evaluations each."""

    def timed() -> list[float]:
        return [clock.seconds(call, subject.device)]

    return Contender(name, timed, images, images * nfe, images * nfe * subject.flop, timed, peer)


def peer_contender(
    subject: Subject,
    name: str,
    build: Callable[[], peers.Draw],
    use: Callable[[peers.Draw], object],
    images: int,
    nfe: float,
) -> Contender:
    """The same for a peer, which is built in its warm-up."""
    built: list[peers.Draw] = []

    def call() -> object:
        if not built:
            built.append(build())
        return use(built[0])

    return contender(subject, name, call, images, nfe, peer=True)

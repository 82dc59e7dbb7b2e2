"""What a multirun costs beside its parts.

Twelve jobs, tau=10,20,50,100 eta=0.0,0.5,1.0, by the default launcher. Its parts are measured before it and after it,
so that all meet the same neighbours: two separate runs of one cell each on models of their own, and every cell alone. A
separate run's seconds less those of its cell are one training, start-up and report included. A cell's seconds are those
of sampling and measuring it in a process that has everything loaded and does nothing else; the fine solution, which the
cells of eta = 0 are measured against and which is solved once a model, counts once.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

TAUS, ETAS = (10, 20, 50, 100), (0.0, 0.5, 1.0)


Cell = tuple[int, float]  # tau and eta


class Seconds(NamedTuple):
    """By the clock, and of the processor, which other work on the machine stretches less."""

    wall: float
    processor: float


class Alone(NamedTuple):
    """A separate run of one cell, and on its model each of all cells and the fine solution."""

    cell: Cell
    run: Seconds
    cells: dict[Cell, Seconds]
    fine: Seconds

    def parts(self, clock: str) -> tuple[float, float, float]:
        """One training, the sampling of all cells, and the fine solution that is in the latter."""
        run, fine = getattr(self.run, clock), getattr(self.fine, clock)
        cells = {cell: getattr(seconds, clock) for cell, seconds in self.cells.items()}
        own = cells[self.cell] + (fine if self.cell[1] == 0 else 0)
        return run - own, sum(cells.values()) + fine, fine


def sweep(overrides: list[str]) -> None:
    """Print the seconds of all of it, and the multirun's over those of one training and twelve samplings."""
    cells = list(product(TAUS, ETAS))
    with tempfile.TemporaryDirectory() as name:
        first, all_of_them, last = (Path(name) / part for part in ("first", "all", "last"))
        before = _alone(first, cells[0], overrides)
        whole = _command(all_of_them, cells, overrides)
        after = _alone(last, cells[-1], overrides)
    for clock in Seconds._fields:
        both = list(zip(before.parts(clock), after.parts(clock), strict=True))
        training, sampling, fine = (sum(pair) / 2 for pair in both)
        measured = getattr(whole, clock)
        separate = len(cells) * training + sampling + (len(TAUS) - 1) * fine  # each model of its own solves for itself
        said = ["(before the sweep {:.1f}, after it {:.1f})".format(*pair) for pair in both]
        print(f"seconds by the {clock}")
        print(f"  one training, alone   {training:8.1f}   {said[0]}")
        print(f"  {len(cells)} samplings, alone  {sampling:8.1f}   {said[1]}")
        print(f"  the sweep             {measured:8.1f}   {measured / (training + sampling):.3f} of both")
        print(f"  {len(cells)} separate runs     {separate:8.1f}   {separate / measured:.2f} sweeps; from two of them")


def _alone(outputs: Path, cell: Cell, overrides: list[str]) -> Alone:
    return Alone(cell, _command(outputs, [cell], overrides), *_cells_alone(outputs, overrides))


def _command(outputs: Path, cells: list[Cell], overrides: list[str]) -> Seconds:
    """Of train.py on these cells, from nothing."""
    taus, etas = (",".join(map(str, dict.fromkeys(values))) for values in zip(*cells, strict=True))
    settings = [f"paths.outputs={outputs}", "evaluation.grid=false", f"tau={taus}", f"eta={etas}", *overrides]
    command = [sys.executable, "-m", "skipstone", "train", *(["-m"] if len(cells) > 1 else []), *settings]
    began, used = time.perf_counter(), _processor_of_children()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "WANDB_MODE": "offline"})
    return Seconds(time.perf_counter() - began, _processor_of_children() - used)


def _processor_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cells_alone(outputs: Path, overrides: list[str]) -> tuple[dict[Cell, Seconds], Seconds]:
    """Of each cell on the model that is trained there, and of its fine solution."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from skipstone import load
    from skipstone.commands.evaluate import yardsticks
    from skipstone.commands.grid import build_cells
    from skipstone.commands.settings import CONF
    from skipstone.evaluation import fine
    from skipstone.evaluation.evaluate import evaluate
    from skipstone.network import placement

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"paths.outputs={outputs}", *overrides])
    trainer = placement.resolve(OmegaConf.to_container(config.trainer, resolve=True))
    placement.use_threads(trainer["threads"])
    (folder,) = (outputs / "models").iterdir()
    net, process = load(folder)
    net, images = placement.place(net, trainer, process.num_steps), instantiate(config.dataset)
    proxies = yardsticks(config, images, placement.device(trainer)).proxies
    batch = config.evaluation.batch_size

    def seconds(call: Callable[[], object]) -> Seconds:
        began, used = time.perf_counter(), time.process_time()
        call()
        return Seconds(time.perf_counter() - began, time.process_time() - used)

    def sampled(cell: Cell) -> Seconds:
        config.tau, config.eta = cell
        cells = build_cells(config, process, [], [])
        return seconds(
            lambda: evaluate(net, cells, images.shape, proxies, seed=config.seed, batch_size=batch, film=True)
        )

    sampled((TAUS[-1], ETAS[0]))  # the first call of all is slower
    n = min(config.evaluation.fine_images, config.evaluation.images)
    solved = seconds(lambda: fine.solve(net, process, n, images.shape, config.seed, n))
    return {cell: sampled(cell) for cell in product(TAUS, ETAS)}, solved

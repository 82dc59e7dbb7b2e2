"""What a multirun costs beside its parts.

Twelve jobs, tau=10,20,50,100 eta=0.0,0.5,1.0, by the default launcher. Beside them, on models of their own, stand two
separate runs of one cell each, one before and one after the multirun, so that all three meet the same neighbours. A
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
ROOT = Path(__file__).parents[3]


class Seconds(NamedTuple):
    """By the clock, and of the processor, which other work on the machine stretches less."""

    wall: float
    processor: float


def sweep(overrides: list[str]) -> None:
    """Print the seconds of all of it, and the multirun's over those of one training and twelve samplings."""
    cells = list(product(TAUS, ETAS))
    with tempfile.TemporaryDirectory() as name:
        first, all_of_them, last = (Path(name) / part for part in ("first", "all", "last"))
        before = _command(first, cells[:1], overrides)
        whole = _command(all_of_them, cells, overrides)
        after = _command(last, cells[-1:], overrides)
        sampled, solved = _cells_alone(all_of_them, overrides)
    for clock in Seconds._fields:
        alone = {cell: getattr(seconds, clock) for cell, seconds in sampled.items()}
        fine = getattr(solved, clock)
        trained = [getattr(before, clock) - alone[cells[0]] - fine, getattr(after, clock) - alone[cells[-1]]]
        training, sampling, measured = sum(trained) / 2, sum(alone.values()) + fine, getattr(whole, clock)
        separate = len(cells) * training + sampling + (len(TAUS) - 1) * fine  # each model of its own solves for itself
        print(f"seconds by the {clock}")
        print(
            f"  one training, alone   {training:8.1f}   (before the sweep {trained[0]:.1f}, after it {trained[1]:.1f})"
        )
        print(f"  {len(cells)} samplings, alone  {sampling:8.1f}   (of which the fine solution {fine:.1f})")
        print(f"  the sweep             {measured:8.1f}   {measured / (training + sampling):.3f} of both")
        print(f"  {len(cells)} separate runs     {separate:8.1f}   {separate / measured:.2f} sweeps; from two of them")


def _command(outputs: Path, cells: list[tuple[int, float]], overrides: list[str]) -> Seconds:
    """Of train.py on these cells, from nothing."""
    taus, etas = (",".join(map(str, dict.fromkeys(values))) for values in zip(*cells, strict=True))
    settings = [f"paths.outputs={outputs}", "evaluation.grid=false", f"tau={taus}", f"eta={etas}", *overrides]
    command = [sys.executable, ROOT / "train.py", *(["-m"] if len(cells) > 1 else []), *settings]
    began, used = time.perf_counter(), _processor_of_children()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "WANDB_MODE": "offline"})
    return Seconds(time.perf_counter() - began, _processor_of_children() - used)


def _processor_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cells_alone(outputs: Path, overrides: list[str]) -> tuple[dict[tuple[int, float], Seconds], Seconds]:
    """Of each cell on the model that is trained there, and of its fine solution."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from skipstone import load
    from skipstone.cells import build_cells
    from skipstone.evaluation import evaluate
    from skipstone.metrics import fine_solution
    from skipstone.review import proxies_of
    from skipstone.settings import CONF
    from skipstone.training import hardware

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"paths.outputs={outputs}", *overrides])
    trainer = hardware.resolve(OmegaConf.to_container(config.trainer, resolve=True))
    hardware.use_threads(trainer["threads"])
    (folder,) = (outputs / "models").iterdir()
    net, process = load(folder)
    net, images = hardware.place(net, trainer, process.num_steps), instantiate(config.dataset)
    proxies, batch = proxies_of(config, images, trainer), config.evaluation.batch_size

    def seconds(call: Callable[[], object]) -> Seconds:
        began, used = time.perf_counter(), time.process_time()
        with hardware.autocast(trainer):
            call()
        return Seconds(time.perf_counter() - began, time.process_time() - used)

    def sampled(cell: tuple[int, float]) -> Seconds:
        config.tau, config.eta = cell
        cells = build_cells(config, process, [], [])
        return seconds(
            lambda: evaluate(net, cells, images.shape, proxies, seed=config.seed, batch_size=batch, film=True)
        )

    sampled((TAUS[-1], ETAS[0]))  # the first call of all is slower
    n = min(config.evaluation.fine_images, config.evaluation.images)
    solved = seconds(lambda: fine_solution(net, process, n, images.shape, config.seed, n, True, False))
    return {cell: sampled(cell) for cell in product(TAUS, ETAS)}, solved

"""What follows once a model is trained, for train.py and scripts/evaluate.py alike.

Its cells are sampled from the same start noise and measured, and everything that a person reads is left.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import Progress
from torch import Tensor

from skipstone import engine
from skipstone.commands.finished import REMEDY, OpenedModel
from skipstone.commands.plan import keep
from skipstone.data import ImageSet
from skipstone.evaluation import metrics
from skipstone.evaluation import results as archive
from skipstone.evaluation.cells import Cell
from skipstone.evaluation.evaluate import Result, evaluate
from skipstone.evaluation.fine import FineSolution
from skipstone.network import compiling
from skipstone.report import csv, curves, page, pictures, rows, sheet, terminal, tracking
from skipstone.report.decoration import decoration
from skipstone.store import files

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

_COMPARED = 12  # samples that are shown beside their nearest training images


@dataclass(frozen=True)
class Yardsticks:
    """What samples are held against.

    images:   the data set that the model was trained on
    proxies:  distances to its images, at so many samples per cell
    memory:   how near samples come to the images that the network was shown
    """

    images: ImageSet
    proxies: metrics.Proxies
    memory: metrics.MemoryCheck


def yardsticks(config: DictConfig, images: ImageSet, device: torch.device) -> Yardsticks:
    """The yardsticks at evaluation.images, or at as many as the data set has held out for their floor.

    device: where features are extracted.
    """
    n, there = config.evaluation.images, len(images.held_out)
    if n > there:
        log.warning("%d images a cell instead of %d: no more real images are held out", there, n)
    outputs = Path(config.paths.outputs)
    proxies = instantiate(config.metrics)(images=images, n=min(n, there), outputs=outputs, device=device)
    return Yardsticks(images, proxies, metrics.MemoryCheck(images, device))


def review(
    config: DictConfig,
    model: OpenedModel,
    cells: Sequence[Cell],
    held_against: Yardsticks,
    folder: Path,
    command: str,
    group: str,
    job_type: str,
    training: archive.Training | None = None,
) -> list[Result]:
    """Sample and measure the cells; write evaluation.csv, pictures and report.html; tell the tracker.

    config:           checked (settings.check)
    folder:           what is written lies there
    command:          to get all this again
    group, job_type:  of the tracker's run
    training:         of the model, what its metrics.csv does not tell
    """
    instantiate(config.logger)  # a tracker that would refuse afterwards refuses now
    n, shape, batch_size = held_against.proxies.n, model.shape, config.evaluation.batch_size
    with compiling.announced("the network, to sample it", model.trainer) as compiles:
        if compiles:  # here, above the bar; otherwise evaluate's own warming up is enough
            engine.warm_up(model.net, shape, min(batch_size, n * len(cells)))
    fine = None if all(cell.table.stochastic for cell in cells) else fine_solution(config, model)
    with Progress(transient=True) as bar:
        task = bar.add_task("sampling")
        results = evaluate(
            model.net,
            cells,
            shape,
            held_against.proxies,
            seed=config.seed,
            batch_size=batch_size,
            fine=fine,
            film=True,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    own = next(result for result in results if result.own)
    memory = held_against.memory(own.samples)
    path = _write(results, own, memory, model, held_against, folder, config, command)
    plain = {**OmegaConf.to_container(config, resolve=True), "trainer": model.trainer, "nfe": own.facts["nfe"]}
    with decoration("what the tracker is told", OSError):
        logger = open_tracker(config, plain, folder, job_type, None, group)
        if logger is not None:
            from skipstone.report import dashboard  # imports Lightning

            ended = False
            try:
                dashboard.log_review(logger, results)
                ended = True
            finally:  # a multirun's next job would go on in a run that was left open
                tracking.finish(logger, ended)
    losses = curves.read_losses(model.folder / "metrics.csv")
    about = archive.About(replace(training or archive.Training(), losses=losses), memory)
    archive.save(results, model.folder.name, command, folder, about)
    terminal.print_table(results)
    print(f"Look next at {path} (model: {model.folder})")
    if own.lost is not None:
        raise ValueError(f"{own.name}: {own.lost}; {path} has what there is. {REMEDY}")
    return results


def _write(
    results: Sequence[Result],
    own: Result,
    memory: metrics.Memorisation,
    model: OpenedModel,
    held_against: Yardsticks,
    folder: Path,
    config: DictConfig,
    command: str,
) -> Path:
    """Everything for the eye; returns the path of the page, which holds all of it."""
    csv.write_csv(results, folder / "evaluation.csv")
    for result in results:
        with decoration(f"the picture of {result.name}"):
            pictures.save_grid(result.samples, folder / "samples" / f"{result.name}.png")
    with decoration("curves.png"):
        curves.save_curves(results, folder / "curves.png")
    with decoration("contact.png"):
        sheet.save_sheet(results, folder / "contact.png")
    metrics_csv, training = model.folder / "metrics.csv", None
    with decoration("the curve of the training"):
        training = keep("curve", metrics_csv, lambda: curves.training_curve(metrics_csv))
    if training is not None:
        files.write(folder / "training_curve.png", training.png)
    story = page.Story(
        model=model.folder.name,
        config=OmegaConf.to_yaml(config),
        command=command,
        training_curve=training and training.embedded,
        neighbours=_neighbours(own, memory, held_against, model.device),
        notes=_notes(config.evaluation.images, own, results, held_against.proxies),
    )
    return page.write_page(results, folder, story)


def _notes(wanted: int, own: Result, results: Sequence[Result], proxies: metrics.Proxies) -> list[str]:
    """What a reader ought to know before the numbers."""
    n = own.facts["images"]
    fewer = f"{n} images a cell instead of the {wanted} asked for: no more real images are held out for the floor."
    return [*([fewer] if n < wanted else []), *proxies.left_out, *rows.lost(results)]


def _neighbours(
    own: Result, found: metrics.Memorisation, held_against: Yardsticks, device: torch.device
) -> page.Neighbours:
    """The own cell's first samples beside the training images nearest to them, and what those of all samples say."""
    train = held_against.images.seen
    indices, distances = metrics.nearest(own.samples[:_COMPARED], train, k=min(3, len(train)), device=device)
    sentence = (
        f"Of {len(own.samples)} samples, {found.too_near:.0%} lie as near to a training image as the nearest 1 % of "
        "held-out images do: about 1 % is what images score that nobody trained on, 100 % is a memory. The median "
        f"distance to the nearest training image is {found.samples:.2f}, that of held-out images {found.held_out:.2f} "
        "(root mean square of pixels in [−1, 1])."
    )
    return page.Neighbours(own.samples[:_COMPARED], train[indices], distances, sentence)


def fine_solution(config: DictConfig, model: OpenedModel) -> Tensor:
    """The fine-step solution of the model's first samples, for solver_rmse: float32 [n, C, H, W] on the CPU."""
    n = min(config.evaluation.fine_images, config.evaluation.images)
    kind = dict(to_data=config.solver.to_data, clip_x0=config.solver.clip_x0)
    solution = FineSolution(model.folder, model.form, config.seed, **kind)
    return solution.ensure(model.net, model.process, n, model.shape, batch_size=n)


def open_tracker(
    config: DictConfig, plain: dict[str, Any], folder: Path, job_type: str, run_id: str | None, group: str
) -> "Logger | None":
    """The run of the configured tracker that this part of the work is told to; None without one."""
    return instantiate(config.logger)(job_type=job_type, run_id=run_id, group=group, directory=folder, config=plain)

"""What follows once a model is trained, for train.py and scripts/evaluate.py alike.

Its cells are sampled from the same start noise and measured, and everything that a person reads is left.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from skipstone import engine
from skipstone.data import ImageSet
from skipstone.evaluation import metrics
from skipstone.evaluation import results as archive
from skipstone.evaluation.cells import Cell
from skipstone.evaluation.evaluate import Result, evaluate
from skipstone.network import compiling, placement
from skipstone.process import ForwardProcess
from skipstone.report import csv, curves, page, pictures, sheet, tracking
from skipstone.report.embed import Drawing
from skipstone.store import files, locks

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

_COMPARED = 12  # samples that are shown beside their nearest training images


@dataclass(frozen=True)
class Trained:
    """A finished model. net: on the device of `trainer`, the resolved settings under which it is evaluated.

    memory: of its images.  curve: of its training, where its losses are known.
    """

    net: nn.Module
    process: ForwardProcess
    images: ImageSet
    folder: Path
    trainer: dict[str, Any]
    memory: metrics.MemoryCheck
    curve: Drawing | None


def proxies_of(config: DictConfig, images: ImageSet, trainer: dict[str, Any]) -> metrics.Proxies:
    """The proxies at evaluation.images, or at as many as the data set has held out for their floor."""
    n, there = config.evaluation.images, len(images.held_out)
    if n > there:
        log.warning("%d images a cell instead of %d: no more real images are held out", there, n)
    return instantiate(config.metrics)(
        images=images, n=min(n, there), outputs=Path(config.paths.outputs), device=placement.device(trainer)
    )


def review(
    config: DictConfig,
    trained: Trained,
    cells: Sequence[Cell],
    proxies: metrics.Proxies,
    folder: Path,
    command: str,
    group: str,
    job_type: str,
) -> list[Result]:
    """Sample and measure the cells; write evaluation.csv, pictures and report.html into `folder`; tell the tracker.

    command: to get all this again.  group, job_type: of the tracker's run.
    """
    instantiate(config.logger)  # a tracker that would refuse afterwards refuses now
    with placement.autocast(trained.trainer):
        with compiling.announced("the network, to sample it", trained.trainer) as compiles:
            if compiles:  # here, above the bar; else evaluate's own warming up is enough
                size = min(config.evaluation.batch_size, proxies.n * len(cells))
                engine.warm_up(trained.net, trained.images.shape, size)
        fine = _fine_solution(config, trained) if any(not cell.table.stochastic for cell in cells) else None
        with Progress(transient=True) as bar:
            task = bar.add_task("sampling")
            results = evaluate(
                trained.net,
                cells,
                trained.images.shape,
                proxies,
                seed=config.seed,
                batch_size=config.evaluation.batch_size,
                fine=fine,
                film=True,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    own = next(result for result in results if result.own)
    path = _write(results, own, trained, folder, OmegaConf.to_yaml(config), command, config.evaluation.images)
    plain = {**OmegaConf.to_container(config, resolve=True), "trainer": trained.trainer, "nfe": own.row["nfe"]}
    logger = open_tracker(config, plain, folder, job_type, None, group)
    if logger is not None:
        from skipstone.report import dashboard  # imports Lightning

        finished = False
        try:
            dashboard.log_review(logger, results)
            finished = True
        finally:  # a multirun's next job would go on in a run that was left open
            tracking.finish(logger, finished)
    archive.save(results, trained.folder.name, command, folder)
    csv.print_table(results)
    print(f"Look next at {path} (model: {trained.folder})")
    return results


def _write(
    results: Sequence[Result], own: Result, trained: Trained, folder: Path, config: str, command: str, wanted: int
) -> Path:
    """Everything for the eye; returns the path of the page, which holds all of it."""
    csv.write_csv(results, folder / "evaluation.csv")
    for result in results:
        pictures.save_grid(result.samples, folder / "samples" / f"{result.name}.png")
    curves.save_curves([result.row for result in results], folder / "curves.png")
    sheet.save_sheet(results, folder / "contact.png")
    if trained.curve is not None:
        files.write(folder / "training_curve.png", trained.curve.png)
    story = page.Story(
        model=trained.folder.name,
        config=config,
        command=command,
        training_curve=trained.curve and trained.curve.embedded,
        neighbours=_neighbours(own, trained),
        notes=_notes(wanted, own),
    )
    return page.write_page(results, folder, story)


def _notes(wanted: int, own: Result) -> list[str]:
    """What a reader ought to know before the numbers."""
    n = own.row["images"]
    fewer = f"{n} images a cell instead of the {wanted} asked for: no more real images are held out for the floor."
    return [fewer] if n < wanted else []


def _neighbours(own: Result, trained: Trained) -> page.Neighbours:
    """The own cell's first samples beside the training images nearest to them, and what those of all samples say."""
    train, device = trained.images.seen, placement.device(trained.trainer)
    found = trained.memory(own.samples)
    indices, distances = metrics.nearest(own.samples[:_COMPARED], train, k=min(3, len(train)), device=device)
    sentence = (
        f"Of {len(own.samples)} samples, {found.too_near:.0%} lie as near to a training image as the nearest 1 % of "
        "held-out images do: about 1 % is what images score that nobody trained on, 100 % is a memory. The median "
        f"distance to the nearest training image is {found.samples:.2f}, that of held-out images {found.held_out:.2f} "
        "(root mean square of pixels in [−1, 1])."
    )
    return page.Neighbours(own.samples[:_COMPARED], train[indices], distances, sentence)


def _fine_solution(config: DictConfig, trained: Trained) -> Tensor:
    """The fine-step solution of the first samples, solved once a model and kept beside it."""
    n = min(config.evaluation.fine_images, config.evaluation.images)
    clip, to_data = config.solver.clip_x0, config.solver.to_data
    kind = ("" if to_data else "-noisy") + ("-clipped" if clip else "")
    path = trained.folder / f"fine-seed{config.seed}-n{n}{kind}.safetensors"
    with suppress(ValueError):
        return _kept(path, (n, *trained.images.shape))
    with locks.held(path.with_suffix(".lock"), f"the solution {path}"):
        with suppress(ValueError):  # another process's
            return _kept(path, (n, *trained.images.shape))
        fine = _solve(trained, n, config.seed, to_data, clip)
        files.write_tensors({"x": fine}, path)
    return fine


def _kept(path: Path, shape: tuple[int, ...]) -> Tensor:
    """A solution that was written before. Raises ValueError where there is none that is whole and ours."""
    try:
        x = load_file(path)["x"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is absent or damaged") from error
    if x.shape != shape:
        raise ValueError(f"{path} is of other samples")
    return x


def _solve(trained: Trained, n: int, seed: int, to_data: bool, clip: bool) -> Tensor:
    log.info("solving %d samples over all %d steps, for solver_rmse (once a model)", n, trained.process.num_steps)
    with torch.compiler.set_stance("force_eager"):  # a compiled network would be compiled once more for this batch
        return metrics.fine_solution(
            trained.net, trained.process, n, trained.images.shape, seed, n, to_data, clip
        ).cpu()


def open_tracker(
    config: DictConfig, plain: dict[str, Any], folder: Path, job_type: str, run_id: str | None, group: str
) -> "Logger | None":
    """The run of the configured tracker that this part of the work is told to; None without one."""
    return instantiate(config.logger)(job_type=job_type, run_id=run_id, group=group, directory=folder, config=plain)

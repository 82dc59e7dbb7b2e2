"""The main job, in order: settle the configuration, ensure the model, evaluate it, report. One call a Hydra job."""

import logging
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from skipstone import metrics, philox, runs, settings
from skipstone.data import ImageSet
from skipstone.evaluation import Result, build_cells, evaluate
from skipstone.philox import Stream
from skipstone.process import ForwardProcess
from skipstone.report import page, pictures, table
from skipstone.training import hardware, tracking
from skipstone.training.fit import fit
from skipstone.training.module import Recipe
from skipstone.training.validation import SamplingCallback, log_results

log = logging.getLogger(__name__)


def run(config: DictConfig) -> list[Result]:
    """Train the model of this configuration if it is not there, sample its cells, leave a report; returns the results.

    Whatever is wrong with the configuration is found before training starts.
    """
    settings.check(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    trainer = hardware.resolve(OmegaConf.to_container(config.trainer, resolve=True))
    plain = {**OmegaConf.to_container(config, resolve=True), "trainer": trainer}
    hardware.use_threads(trainer["threads"])
    process = ForwardProcess(instantiate(config.noise))
    cells = build_cells(config, process, config.evaluation.taus, config.evaluation.etas)
    net = _network(config)
    images: ImageSet = instantiate(config.dataset)
    proxies = _proxies(config, images)
    few = config.evaluation.training
    watch = SamplingCallback(
        partial(
            evaluate,
            cells=build_cells(config, process, few.taus, few.etas),
            shape=images.shape,
            proxies=proxies.at(min(few.images, proxies.n)),
            seed=config.seed,
            batch_size=min(few.images, proxies.n),
        ),
        folder / "training",
    )
    recipe = Recipe(**config.training)

    store = runs.ModelStore(config.paths.outputs)
    weights = runs.weights_config(plain, images)
    train = partial(_train, config, plain, net, process, images, recipe, watch, folder)
    model_folder = store.ensure(weights, train, config.fresh)

    runs.load_weights(net, model_folder)
    net = hardware.place(net, trainer)
    options = {"seed": config.seed, "batch_size": config.evaluation.batch_size}
    with hardware.autocast(trainer):
        fine = _fine_solution(net, process, model_folder, config, images.shape)
        shown = track(cells, "sampling", transient=True)
        results = evaluate(net, shown, images.shape, proxies, fine=fine, **options)
    _report(config, plain, results, folder, model_folder)
    return results


def _network(config: DictConfig) -> nn.Module:
    """The network with its first weights, which are a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(philox.fold(config.seed, Stream.WEIGHTS, 0))
        return instantiate(config.model)


def _train(
    config: DictConfig, plain: dict[str, Any], net: nn.Module, process: ForwardProcess, images: ImageSet,
    recipe: Recipe, watch: SamplingCallback, folder: Path, model_folder: Path,
) -> nn.Module:  # fmt: skip
    """Train `net` in the model's folder, watched by the tracker and by a few cells; returns the averaged network."""
    logger = _tracker(config, plain, folder, "train", model_folder.name)
    log.info("training %s for %d steps", model_folder, plain["trainer"]["max_steps"])
    finished = False
    try:
        net = fit(net, process, images, recipe, plain["trainer"], config.seed, model_folder, logger, (watch,))
        finished = True
    finally:
        tracking.finish(logger, finished)
    return net


def _proxies(config: DictConfig, images: ImageSet) -> metrics.Proxies:
    """The proxies at evaluation.images, or as many as the data set has held out for their floor."""
    n, there = config.evaluation.images, len(images.held_out)
    if n > there:
        log.warning("%d images a cell instead of %d: no more real images are held out", there, n)
    return instantiate(config.metrics)(images=images, n=min(n, there))


def _fine_solution(
    net: nn.Module, process: ForwardProcess, model_folder: Path, config: DictConfig, shape: tuple[int, ...]
) -> Tensor:
    """The fine-step solution of the first samples, solved once a model and kept beside it."""
    n = min(config.evaluation.fine_images, config.evaluation.images)
    clip, to_data = config.solver.clip_x0, config.solver.to_data
    kind = ("" if to_data else "-noisy") + ("-clipped" if clip else "")
    path = model_folder / f"fine-seed{config.seed}-n{n}{kind}.safetensors"
    with suppress(OSError, SafetensorError):  # absent, or cut off while it was written: solved again
        return load_file(path)["x"]
    log.info("solving %d samples over all %d steps, for solver_rmse (once a model)", n, process.num_steps)
    fine = metrics.fine_solution(net, process, n, shape, config.seed, n, to_data, clip).cpu()
    runs.write_tensors({"x": fine}, path)
    return fine


def _tracker(
    config: DictConfig, plain: dict[str, Any], folder: Path, job_type: str, run_id: str | None
) -> Logger | None:
    return instantiate(config.logger)(job_type=job_type, run_id=run_id, directory=folder, config=plain)


def _report(config: DictConfig, plain: dict[str, Any], results: list[Result], folder: Path, model_folder: Path) -> None:
    """Files, tracker and terminal: everything that a person reads."""
    table.write_csv(results, folder / "evaluation.csv")
    for result in results:
        pictures.save_grid(result.samples, folder / "samples" / f"{result.cell.name}.png")
    pictures.save_curves([result.row for result in results], folder / "curves.png")
    overrides = list(HydraConfig.get().overrides.task)
    path = page.write_page(results, folder, OmegaConf.to_yaml(config), model_folder.name, overrides)

    own = next(result for result in results if result.cell.own)
    logger = _tracker(config, {**plain, "nfe": own.row["nfe"]}, folder, "sample", None)
    if logger is not None:
        log_results([logger], results)
        logger.log_metrics({name: value for name, value in own.row.items() if isinstance(value, (int, float))})
        tracking.finish(logger, True)

    table.print_table(results)
    print(f"Look next at {path} (model: {model_folder})")

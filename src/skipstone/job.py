"""The main job, in order: settle the configuration, ensure the model, review it. One call a Hydra job."""

import logging
import shlex
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from skipstone import archive, compiling, philox, runs, settings
from skipstone.data import ImageSet
from skipstone.evaluation import build_cells, evaluate
from skipstone.philox import Stream
from skipstone.process import ForwardProcess
from skipstone.review import Trained, open_tracker, proxies_of, review
from skipstone.training import hardware, tracking
from skipstone.training.fit import fit
from skipstone.training.module import Recipe
from skipstone.training.validation import SamplingCallback

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Train the model of this configuration if it is not there, sample its cells, leave a report.

    Whatever is wrong with the configuration is found before training starts.
    """
    settings.check(config)
    compiling.keep_under(config.paths.outputs)
    hydra = HydraConfig.get()
    sweep = Path(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None
    folder = Path(hydra.runtime.output_dir)
    if archive.there(folder):
        log.info("%s has its result already", folder)
        return
    trainer = hardware.resolve(OmegaConf.to_container(config.trainer, resolve=True))
    plain = {**OmegaConf.to_container(config, resolve=True), "trainer": trainer}
    hardware.use_threads(trainer["threads"])
    process = ForwardProcess(instantiate(config.noise))
    grid, few = config.evaluation, config.evaluation.training
    whole = sweep is None if grid.grid == "auto" else grid.grid
    cells = build_cells(config, process, *((grid.taus, grid.etas, grid.schedules) if whole else ([], [])))
    watched = build_cells(config, process, few.taus, few.etas)
    fresh = _network(config)
    images: ImageSet = _keep("images", plain["dataset"], lambda: instantiate(config.dataset))
    measured_by = [plain["dataset"], plain["metrics"], config.evaluation.images, config.paths.outputs, trainer]
    proxies = _keep("proxies", measured_by, lambda: proxies_of(config, images, trainer))
    n = min(few.images, proxies.n)
    sample = partial(
        evaluate, cells=watched, shape=images.shape, proxies=proxies.at(n), seed=config.seed, batch_size=grid.batch_size
    )
    placed = partial(hardware.sampler, trainer=trainer, num_steps=process.num_steps)
    watch = SamplingCallback(lambda net: sample(placed(net)), folder / "training")
    recipe = Recipe(**config.training)

    store = runs.ModelStore(config.paths.outputs)
    weights = runs.weights_config(plain, images)
    key = runs.model_key(weights)
    group = key if sweep is None else sweep.name  # a sweep reads as one thing, and else what was done with one model
    train = partial(_train, config, plain, fresh, process, images, recipe, watch, folder, group)
    renewed = None if sweep is None else sweep / f".fresh-{key}"  # fresh=true trains anew once a sweep, not once a job
    model_folder = store.ensure(weights, train, config.fresh and not (renewed and renewed.exists()))
    if renewed and config.fresh:
        renewed.touch()

    def place() -> nn.Module:
        runs.load_weights(fresh, model_folder)
        return hardware.place(fresh, trainer, process.num_steps)

    net = _keep("net", [str(model_folder), store.finished_at(key), trainer], place)
    trained = Trained(net, process, images, model_folder, trainer)
    command = shlex.join(["python", "train.py", *hydra.overrides.task])
    review(config, trained, cells, proxies, folder, command, group, job_type="sample")


_kept: dict[str, tuple[Any, Any]] = {}


def _keep(kind: str, key: Any, make: Callable[[], Any]) -> Any:
    """What `make` gives, or gave for the same key the last time: a multirun's jobs share data and model in memory."""
    if kind not in _kept or _kept[kind][0] != key:
        _kept.pop(kind, None)  # the old one first: two may not fit
        _kept[kind] = key, make()
    return _kept[kind][1]


def _network(config: DictConfig) -> nn.Module:
    """The network with its first weights, which are a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(philox.fold(config.seed, Stream.WEIGHTS, 0))
        return instantiate(config.model)


def _train(
    config: DictConfig, plain: dict[str, Any], net: nn.Module, process: ForwardProcess, images: ImageSet,
    recipe: Recipe, watch: SamplingCallback, folder: Path, group: str, model_folder: Path,
) -> nn.Module:  # fmt: skip
    """Train `net` in the model's folder, watched by the tracker and by a few cells; returns the averaged network."""
    logger = open_tracker(config, plain, folder, "train", model_folder.name, group)
    log.info("training %s for %d steps", model_folder, plain["trainer"]["max_steps"])
    began, finished = time.perf_counter(), False
    try:
        net = fit(net, process, images, recipe, plain["trainer"], config.seed, model_folder, logger, (watch,))
        finished = True
    finally:
        tracking.finish(logger, finished)
    validated = f", of which validation took {watch.seconds:.0f} s" if watch.seconds else ""  # another process's, else
    log.info("trained in %.0f s%s", time.perf_counter() - began, validated)
    return net

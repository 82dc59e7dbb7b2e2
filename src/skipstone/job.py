"""The main job, in order: settle the configuration, ensure the model, review it. One call a Hydra job."""

import logging
import shlex
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from skipstone import philox, runs, settings
from skipstone.data import ImageSet
from skipstone.evaluation import Result, build_cells, evaluate
from skipstone.philox import Stream
from skipstone.process import ForwardProcess
from skipstone.review import Trained, open_tracker, proxies_of, review
from skipstone.training import hardware, tracking
from skipstone.training.fit import fit
from skipstone.training.module import Recipe
from skipstone.training.validation import SamplingCallback

log = logging.getLogger(__name__)


def run(config: DictConfig) -> list[Result]:
    """Train the model of this configuration if it is not there, sample its cells, leave a report; returns the results.

    Whatever is wrong with the configuration is found before training starts.
    """
    settings.check(config)
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    trainer = hardware.resolve(OmegaConf.to_container(config.trainer, resolve=True))
    plain = {**OmegaConf.to_container(config, resolve=True), "trainer": trainer}
    hardware.use_threads(trainer["threads"])
    process = ForwardProcess(instantiate(config.noise))
    grid, few = config.evaluation, config.evaluation.training
    cells = build_cells(config, process, grid.taus, grid.etas, grid.schedules)
    watched = build_cells(config, process, few.taus, few.etas)
    net = _network(config)
    images: ImageSet = instantiate(config.dataset)
    proxies = proxies_of(config, images, trainer)
    n = min(few.images, proxies.n)
    sample = partial(
        evaluate, cells=watched, shape=images.shape, proxies=proxies.at(n), seed=config.seed,
        batch_size=min(n * len(watched), grid.batch_size),
    )  # fmt: skip
    watch = SamplingCallback(sample, folder / "training")
    recipe = Recipe(**config.training)

    store = runs.ModelStore(config.paths.outputs)
    weights = runs.weights_config(plain, images)
    # a sweep reads as one thing, and else what was done with one model
    group = Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else runs.model_key(weights)
    train = partial(_train, config, plain, net, process, images, recipe, watch, folder, group)
    model_folder = store.ensure(weights, train, config.fresh)

    runs.load_weights(net, model_folder)
    trained = Trained(hardware.place(net, trainer), process, images, model_folder, trainer)
    command = shlex.join(["python", "train.py", *hydra.overrides.task])
    return review(config, trained, cells, proxies, folder, command, group, job_type="sample")


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
    log.info("trained in %.0f s, of which validation took %.0f s", time.perf_counter() - began, watch.seconds)
    return net

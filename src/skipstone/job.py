"""The main job, in order: settle the configuration, ensure the model, review it. One call a Hydra job."""

import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from skipstone import archive, compiling, locks, philox, runs, settings
from skipstone.data import ImageSet
from skipstone.evaluation import Cell, build_cells, evaluate
from skipstone.metrics import MemoryCheck, Proxies
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

    Whatever is wrong with the configuration is found before training starts. What has its result already is not done
    again. Raises FileExistsError for a folder with the result of another command.
    """
    settings.check(config)
    compiling.keep_under(config.paths.outputs)
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if hydra.mode == RunMode.MULTIRUN:
        # a job may still run somewhere when its multirun is resumed
        with locks.held(folder / "lock", f"job {folder}"):
            _run(config, hydra, folder, Path(hydra.sweep.dir))
    else:
        _run(config, hydra, folder, None)


def _run(config: DictConfig, hydra: DictConfig, folder: Path, sweep: Path | None) -> None:
    words = [word for word in hydra.overrides.task if not word.startswith("resume=")]
    command = shlex.join(["python", "train.py", *words])
    if _has_result(folder, command, resumed=config.resume is not None):
        log.info("%s has its result already", folder)
        return
    trainer = hardware.resolve(OmegaConf.to_container(config.trainer, resolve=True))
    hardware.use_threads(trainer["threads"])
    work = _prepare(config, trainer, alone=sweep is None)

    key = runs.model_key(work.weights)
    group = key if sweep is None else sweep.name  # a sweep reads as one thing, and else what was done with one model
    renewed = None if sweep is None else sweep / f".fresh-{key}"  # fresh=true trains anew once a sweep, not once a job
    store = runs.ModelStore(config.paths.outputs)
    model_folder = store.ensure(work.weights, partial(_train, config, work, folder, group), config.fresh, renewed)

    def place() -> nn.Module:
        runs.load_weights(work.net, model_folder)
        return hardware.place(work.net, trainer, work.process.num_steps)

    net = _keep("net", [str(model_folder), store.finished_at(key), trainer], place)
    trained = Trained(net, work.process, work.images, model_folder, trainer, work.memory)
    review(config, trained, work.cells, work.proxies, folder, command, group, job_type="sample")


def _has_result(folder: Path, command: str, resumed: bool) -> bool:
    before = archive.command(folder)
    if before is not None and before != command and not resumed:
        raise FileExistsError(f"{folder} holds the result of another command ({before}): name a new folder.")
    return before is not None


@dataclass(frozen=True)
class _Work:
    """Everything that a configuration amounts to. net: with its first weights.  watched: cells while it trains."""

    net: nn.Module
    process: ForwardProcess
    images: ImageSet
    recipe: Recipe
    cells: list[Cell]
    watched: list[Cell]
    proxies: Proxies
    memory: MemoryCheck
    plain: dict[str, Any]
    weights: dict[str, Any]


def _prepare(config: DictConfig, trainer: dict[str, Any], alone: bool) -> _Work:
    """Build all of it, or raise. trainer: resolved.  alone: whether this is no job of a multirun."""
    plain = {**OmegaConf.to_container(config, resolve=True), "trainer": trainer}
    process = ForwardProcess(instantiate(config.noise))
    grid, few = config.evaluation, config.evaluation.training
    whole = alone if grid.grid == "auto" else grid.grid
    cells = build_cells(config, process, *((grid.taus, grid.etas, grid.schedules) if whole else ([], [])))
    watched = build_cells(config, process, few.taus, few.etas)
    net = _network(config)
    images: ImageSet = _keep("images", plain["dataset"], lambda: instantiate(config.dataset))
    measured_by = [plain["dataset"], plain["metrics"], config.evaluation.images, config.paths.outputs, trainer]
    proxies = _keep("proxies", measured_by, lambda: proxies_of(config, images, trainer))
    memory = _keep("memory", [plain["dataset"], trainer], lambda: MemoryCheck(images, hardware.device(trainer)))
    weights = runs.weights_config(plain, images)
    return _Work(net, process, images, Recipe(**config.training), cells, watched, proxies, memory, plain, weights)


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


def _train(config: DictConfig, work: _Work, folder: Path, group: str, model_folder: Path) -> nn.Module:
    """Train the network in the model's folder, watched by the tracker and by a few cells; returns the averaged one."""
    trainer, few, batch = work.plain["trainer"], config.evaluation.training, config.evaluation.batch_size
    proxies = work.proxies.at(min(few.images, work.proxies.n))
    sample = partial(
        evaluate, cells=work.watched, shape=work.images.shape, proxies=proxies, seed=config.seed, batch_size=batch
    )
    placed = partial(hardware.sampler, trainer=trainer, num_steps=work.process.num_steps)
    watch = SamplingCallback(lambda net: sample(placed(net)), folder / "training")
    logger = open_tracker(config, work.plain, folder, "train", model_folder.name, group)
    log.info("training %s for %d steps", model_folder, trainer["max_steps"])
    began, finished = time.perf_counter(), False
    try:
        net = fit(
            work.net, work.process, work.images, work.recipe, trainer, config.seed, model_folder, logger, (watch,)
        )
        finished = True
    finally:
        tracking.finish(logger, finished)
    validated = f", of which validation took {watch.seconds:.0f} s" if watch.seconds else ""  # another process's, else
    log.info("trained in %.0f s%s", time.perf_counter() - began, validated)
    return net

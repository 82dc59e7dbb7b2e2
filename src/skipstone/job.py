"""The main job, in order: ensure the model of a plan, review it. One call a Hydra job."""

import logging
import shlex
import time
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch import nn

from skipstone import archive, runs
from skipstone.evaluation import evaluate
from skipstone.plan import Plan, keep
from skipstone.review import Trained, open_tracker, proxies_of, review
from skipstone.training import hardware, tracking
from skipstone.training.fit import fit
from skipstone.training.module import Recipe
from skipstone.training.validation import SamplingCallback

log = logging.getLogger(__name__)


def run(config: DictConfig, plan: Plan) -> None:
    """Train the model of this configuration if it is not there, sample its cells, leave a report.

    config: checked (settings.check).  plan: of it.  Whatever else is wrong with it is found before training starts.
    """
    hydra = HydraConfig.get()
    sweep = Path(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None
    folder = Path(hydra.runtime.output_dir)
    if archive.there(folder):
        log.info("%s has its result already", folder)
        return
    trainer, images, grid = plan.trainer, plan.images, config.evaluation
    plain = {**OmegaConf.to_container(config, resolve=True), "trainer": trainer}
    measured_by = [plain["dataset"], plain["metrics"], config.evaluation.images, config.paths.outputs, trainer]
    proxies = keep("proxies", measured_by, lambda: proxies_of(config, images, trainer))
    n = min(grid.training.images, proxies.n)
    sample = partial(
        evaluate,
        cells=plan.watched,
        shape=images.shape,
        proxies=proxies.at(n),
        seed=config.seed,
        batch_size=grid.batch_size,
    )
    watch = SamplingCallback(sample, folder / "training")
    recipe = Recipe(**config.training)

    store = runs.ModelStore(config.paths.outputs)
    weights = runs.weights_config(plain, images)
    key = runs.model_key(weights)
    group = key if sweep is None else sweep.name  # a sweep reads as one thing, and else what was done with one model
    train = partial(_train, config, plain, plan, recipe, watch, folder, group)
    renewed = None if sweep is None else sweep / f".fresh-{key}"  # fresh=true trains anew once a sweep, not once a job
    model_folder = store.ensure(weights, train, config.fresh and not (renewed and renewed.exists()))
    if renewed and config.fresh:
        renewed.touch()

    def place() -> nn.Module:
        runs.load_weights(plan.net, model_folder, key)
        return hardware.place(plan.net, trainer)

    net = keep("net", [str(model_folder), store.finished_at(key), trainer], place)
    trained = Trained(net, plan.process, images, model_folder, trainer)
    command = shlex.join(["python", "train.py", *hydra.overrides.task])
    review(config, trained, plan.cells, proxies, folder, command, group, job_type="sample")


def _train(
    config: DictConfig, plain: dict[str, Any], plan: Plan, recipe: Recipe, watch: SamplingCallback, folder: Path,
    group: str, model_folder: Path,
) -> nn.Module:  # fmt: skip
    """Train the network in the model's folder, watched by the tracker and by a few cells; returns the averaged one."""
    logger = open_tracker(config, plain, folder, "train", model_folder.name, group)
    log.info("training %s for %d steps", model_folder, plan.trainer["max_steps"])
    began, finished = time.perf_counter(), False
    try:
        net = fit(
            plan.net, plan.process, plan.images, recipe, plan.trainer, config.seed, model_folder, logger, (watch,)
        )
        finished = True
    finally:
        tracking.finish(logger, finished)
    validated = f", of which validation took {watch.seconds:.0f} s" if watch.seconds else ""  # another process's, else
    log.info("trained in %.0f s%s", time.perf_counter() - began, validated)
    return net

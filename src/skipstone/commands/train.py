"""The main job, in order: ensure the model of a plan, review it. One call a Hydra job."""

import logging
import shlex
import time
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import nn

from skipstone.commands.called import called
from skipstone.commands.evaluate import open_tracker, review, yardsticks
from skipstone.commands.finished import OpenedModel
from skipstone.commands.plan import Plan, keep
from skipstone.commands.sweeps.folder import JOB_LOCK, same_job
from skipstone.evaluation import results
from skipstone.evaluation.evaluate import evaluate
from skipstone.evaluation.metrics import Proxies
from skipstone.network import compiling, placement
from skipstone.process import ForwardProcess
from skipstone.report import tracking
from skipstone.store import claims, locks, models, source, stored
from skipstone.store.key import model_key, weights_config
from skipstone.training.checkpoints import resume as checkpoints

log = logging.getLogger(__name__)


def run(config: DictConfig, plan: Plan) -> None:
    """Train the model of this configuration if it is not there, sample its cells, leave a report.

    config: checked (settings.check).  plan: of it.  Whatever else is wrong is found before training starts. What has
    its result already is not done again. Raises FileExistsError for a folder with the result of another command.
    """
    if config.resume is None:  # else a folder from elsewhere says where compiled code is found, and that is run
        compiling.keep_under(config.paths.outputs)
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if hydra.mode == RunMode.MULTIRUN:
        if folder.name != str(hydra.job.num):
            raise ValueError(
                "hydra.sweep.subdir is not allowed: a sweep's jobs are found by their numbers, leave it out."
            )
        # a job may still run somewhere when its sweep is run again
        with locks.held(folder / JOB_LOCK, f"job {folder}"):
            _run(config, plan, hydra, folder, Path(hydra.sweep.dir))
    else:
        _run(config, plan, hydra, folder, None)


def _run(config: DictConfig, plan: Plan, hydra: DictConfig, folder: Path, sweep: Path | None) -> None:
    words = [word for word in hydra.overrides.task if not word.startswith("resume=")]
    command = shlex.join([*called("train"), *words])
    if _has_result(folder, words, again=config.resume is not None):
        if config.fresh and config.resume is None:
            log.warning(
                "%s has its result already, so fresh=true trains nothing: for a new training leave out hydra.sweep.dir "
                "and hydra.run.dir, or name a new folder there",
                folder,
            )
        else:
            log.info("%s has its result already", folder)
        return
    trainer, images = plan.trainer, plan.images
    plain = {**OmegaConf.to_container(config, resolve=True), "trainer": trainer}
    measured_by = [plain["dataset"], plain["metrics"], config.evaluation.images, config.paths.outputs, trainer]
    held_against = keep("yardsticks", measured_by, lambda: yardsticks(config, images, placement.device(trainer)))
    # the network's classes and those that they build on, and the function that made β
    own_code = source.fingerprint([*source.classes_of(plan.net), get_object(config.noise._target_)])
    store = models.ModelStore(config.paths.outputs)
    labels = images.labels_fingerprint if getattr(plan.net, "classes", 0) else None
    about = (images.name, images.fingerprint, images.flip)
    weights = store.as_stored(weights_config(plain, *about, own_code, labels))
    key = model_key(weights)
    group = key if sweep is None else sweep.name  # a sweep reads as one thing, and else what was done with one model
    renewed = None if sweep is None else sweep / f".fresh-{key}"  # fresh=true trains anew once a sweep, not once a job
    trained: list[results.Training] = []
    train = partial(_train, config, plain, plan, held_against.proxies, folder, group, trained)
    model_folder = store.ensure(weights, train, config.fresh, renewed)

    def place() -> nn.Module:
        stored.load_weights(plan.net, model_folder, key)
        return placement.place(stored.opened(plan.net, plain, plan.process), trainer, plan.process.num_steps)

    net = keep("net", [str(model_folder), store.finished_at(key), trainer], place)
    model = OpenedModel(net, plan.process, images.shape, model_folder, trainer)
    training = trained[0] if trained else results.Training(trainer["max_steps"])
    cells = plan.cells(model)
    review(config, model, cells, held_against, folder, command, group, job_type="sample", training=training)


def _placed(net: nn.Module, plain: dict[str, Any], process: ForwardProcess) -> nn.Module:
    """The network that is being trained, in the form in which it is sampled where it lies."""
    return placement.sampler(stored.opened(net, plain, process), plain["trainer"], process.num_steps)


def _has_result(folder: Path, words: list[str], again: bool) -> bool:
    """Whether the result of these overrides is there. With resume=, that of another is set aside."""
    before = results.command(folder)
    if before is None or same_job(before, words):
        return before is not None
    if not again:
        raise FileExistsError(f"{folder} holds the result of another command ({before}): name a new folder.")
    log.warning("the results in %s are of another job (%s): now %s", folder, before, results.set_aside(folder).name)
    return False


def _train(
    config: DictConfig, plain: dict[str, Any], plan: Plan, proxies: Proxies, folder: Path, group: str,
    trained: list[results.Training], model_folder: Path,
) -> nn.Module:  # fmt: skip
    """Train the network in the model's folder, watched by the tracker and by a few cells; returns the averaged one.

    trained: takes what there is to say of it.
    """
    trainer, images = plan.trainer, plan.images
    found = checkpoints.latest(model_folder, claims.key_of(model_folder), plan.net)
    sample = partial(
        evaluate,
        cells=plan.watched,
        shape=images.shape,
        proxies=proxies.at(min(config.evaluation.training.images, proxies.n)),
        seed=config.seed,
        batch_size=config.evaluation.batch_size,
    )
    placed = partial(_placed, plain=plain, process=plan.process)
    logger = open_tracker(config, plain, folder, "train", claims.name_of(model_folder), group)
    from skipstone.training.fit import fit  # imports Lightning, which takes as long as all that is checked before
    from skipstone.training.validation import SamplingCallback

    watch = SamplingCallback(placed, sample, folder / "training")
    log.info("training %s for %d steps", model_folder, trainer["max_steps"])
    began, finished = time.perf_counter(), False
    try:
        net = fit(
            plan.net, plan.process, images, plan.recipe, trainer, config.seed, model_folder, logger, (watch,), found
        )
        finished = True
    finally:
        tracking.finish(logger, finished)
    validated = f", of which validation took {watch.seconds:.0f} s" if watch.seconds else ""  # another process's, else
    seconds = time.perf_counter() - began
    trained.append(results.Training(trainer["max_steps"], seconds=seconds, begun_at=found.step if found else 0))
    log.info("trained in %.0f s%s", seconds, validated)
    return net

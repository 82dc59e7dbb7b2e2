"""Experiment trackers by name: each is a `_target_` of conf/logger and returns a Lightning logger, or None.

Training and sampling are two runs of a tracker, for a model is trained once and sampled many times. Lightning is
imported for a run and not before.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

_DATA_DIR = os.environ.get("WANDB_DATA_DIR")


class Wandb:
    """Weights & Biases: offline unless the user is logged in or WANDB_MODE is set. It is imported here and not before.

    Under an agent of a W&B sweep a job is one run, the agent's: the sampling. metrics.csv has the training.
    Raises ValueError for a login that cannot be one, and for a name that W&B refuses.
    """

    def __init__(self, project: str, entity: str | None) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")  # read at import; our own closing line says where to look
        import wandb as client

        self.client, self.project, self.entity = client, project, entity
        try:
            self.offline = "WANDB_MODE" not in os.environ and not client.login(prompt=False, verify=False)
        except client.errors.Error as error:
            raise ValueError(
                f"W&B does not take the login that it finds ({error}): correct it, or set WANDB_MODE=offline."
            ) from error

    def __call__(
        self, *, job_type: str, run_id: str | None, group: str, directory: Path, config: dict[str, Any]
    ) -> "Logger | None":
        """A run, begun.  run_id: None lets W&B choose.

        group: what belongs together: a sweep, or else all runs on one model.
        """
        if job_type == "train" and os.environ.get("WANDB_SWEEP_ID"):
            log.info("the run of W&B's agent is kept for the sampling: the training is in metrics.csv")
            return None
        from lightning.pytorch.loggers import WandbLogger

        os.environ["WANDB_DIR"] = str(directory)  # for the processes of further devices
        # what tables hold waits there for an upload; the default is the user's home
        os.environ["WANDB_DATA_DIR"] = _DATA_DIR or str(directory / "wandb")
        dataset, schedule = config["dataset"]["name"], config["schedule"]["_target_"].rsplit(".", 1)[-1].lower()
        cell = [] if job_type == "train" else [schedule, f"tau={config['tau']}", f"eta={config['eta']}"]
        options = {
            "project": self.project,
            "entity": self.entity,
            "id": run_id,
            "name": run_id or " ".join([job_type, *cell]),
            "save_dir": str(directory),
            "job_type": job_type,
            "group": group,
            "tags": [dataset, *cell],
            "config": dict(_flat(config)),
            "resume": "allow" if run_id else None,
        }
        logger = WandbLogger(mode="offline" if self.offline else None, **options)
        try:
            _ = logger.experiment  # begins the run
        except self.client.errors.UsageError as error:
            raise ValueError(f"W&B refuses the run ({error}): correct logger.project or logger.entity.") from error
        except self.client.errors.Error as error:
            log.warning("W&B cannot be reached, so this run is kept offline (wandb sync uploads it): %s", error)
            self.client.teardown()  # the failed run would keep its id to itself
            os.environ["WANDB_MODE"] = "offline"  # for the process's next run, too, which need not wait again
            logger = WandbLogger(mode="offline", **options)
            _ = logger.experiment
        _say_where(logger.experiment)
        return logger


def _say_where(run: Any) -> None:
    """One line of the log: the page of a W&B run, or its folder where there is no page yet."""
    if run.url:
        log.info("W&B keeps this run at %s", run.url)
    elif not run.disabled:
        folder = Path(run.dir).parent
        log.info("W&B keeps this run offline in %s; `wandb sync` and that folder upload it", folder)


def _flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf under its dotted name, the one that is typed on the command line."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def csv(*, job_type: str, run_id: str | None, group: str, directory: Path, config: dict[str, Any]) -> "Logger":
    """A folder `<directory>/<job_type>` with metrics.csv and hparams.yaml."""
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(directory, name=job_type, version="")
    logger.log_hyperparams(config)
    return logger


def none(*, job_type: str, run_id: str | None, group: str, directory: Path, config: dict[str, Any]) -> None:
    """No tracker: the run folder and the model's own metrics.csv hold everything."""


def finish(logger: "Logger | None", finished: bool) -> None:
    """Close a tracker's run. Two W&B loggers in one process would share one run if the first were left open.

    finished: whether what it tracked came to its end.
    """
    if logger is None:
        return
    logger.finalize("success" if finished else "failed")
    if type(logger).__name__ == "WandbLogger":
        logger.experiment.finish(exit_code=0 if finished else 1)

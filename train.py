"""The main job: make sure that the model of this configuration exists, evaluate it, report.

python train.py schedule=exp eta=0.0
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads of torch would slow other busy processes down

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from skipstone import settings
from skipstone.command import CONF, Sweep, failure_noted, main

OmegaConf.register_new_resolver("pid", os.getpid, replace=True)


def _outputs(folder: str | None) -> str:
    if not folder:
        raise ValueError("paths.outputs is empty: name the folder for everything that runs write.")
    return folder


OmegaConf.register_new_resolver("outputs", _outputs, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def job(config: DictConfig) -> None:
    """One invocation, or one job of a multirun."""
    with failure_noted():
        # What needs less is checked before more is imported; --help and --cfg need nothing.
        settings.check(config)
        from skipstone import plan

        parts = plan.make(config, HydraConfig.get().mode == RunMode.MULTIRUN)
        from skipstone.job import run

        run(config, parts)


def runs() -> None:
    """All jobs of the command line; of a multirun, however it ended, the report over those that have results."""
    Sweep.resume()
    try:
        job()
    finally:
        if Sweep.folder is not None:
            from skipstone import sweep

            path = sweep.report(Sweep.folder)
            print(f"Look next at {path}" if path else f"No job of {Sweep.folder} has a result.")


if __name__ == "__main__":
    main(runs)

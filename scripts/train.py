"""The main job: make sure that the model of this configuration exists, evaluate it, report.

python train.py schedule=exp eta=0.0
"""

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import main
from skipstone.commands.settings import CONF
from skipstone.commands.sweeps.launch import failure_noted, reported


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def job(config: DictConfig) -> None:
    """One invocation, or one job of a multirun, wherever its launcher carries it out."""
    with failure_noted():
        # What needs less is checked before more is imported; --help and --cfg need nothing.
        settings.check(config)
        from skipstone.commands import plan

        parts = plan.make(config, HydraConfig.get().mode == RunMode.MULTIRUN)
        from skipstone.commands.train import run

        run(config, parts)


if __name__ == "__main__":
    main(reported()(job))  # of a multirun, however it ended, the report over the jobs that have results

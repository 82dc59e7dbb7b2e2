"""The main job: make sure that the model of this configuration exists, evaluate it, report.

python train.py schedule=exp eta=0.0
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads of torch would slow other busy processes down

import hydra
from omegaconf import DictConfig

from skipstone.command import main
from skipstone.multirun import failure_noted, reported
from skipstone.settings import CONF


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def job(config: DictConfig) -> None:
    """One invocation, or one job of a multirun, wherever its launcher carries it out."""
    with failure_noted():
        from skipstone.job import run  # imports torch and Lightning, which --help and --cfg do without

        run(config)


def runs() -> None:
    """All jobs of the command line; of a multirun, however it ended, the report over those that have results."""
    with reported():
        job()


if __name__ == "__main__":
    main(runs)

"""The main job: make sure that the model of this configuration exists, evaluate it, report.

python train.py schedule=exp eta=0.0
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads of torch would slow other busy processes down

import hydra
from omegaconf import DictConfig, OmegaConf

from skipstone.command import CONF, main

OmegaConf.register_new_resolver("pid", os.getpid, replace=True)


def _outputs(folder: str | None) -> str:
    if not folder:
        raise ValueError("paths.outputs is empty: name the folder for everything that runs write.")
    return folder


OmegaConf.register_new_resolver("outputs", _outputs, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def job(config: DictConfig) -> None:
    """One invocation, or one job of a multirun."""
    from skipstone.job import run  # imports torch and Lightning, which --help and --cfg do without

    run(config)


if __name__ == "__main__":
    main(job)

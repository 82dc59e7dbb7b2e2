"""The grid on a finished model: python scripts/evaluate.py run=<key> schedule=exp

'evaluation.schedules={quad: null, uniform: [100, 50]}' adds the grids of further schedules.
"""

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.called import called
from skipstone.commands.cli import CONF, main


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def job(config: DictConfig) -> None:
    """Writes evaluation.csv, curves.png, contact.png, samples/ and report.html, as train.py does for its own grid."""
    settings.check(config)
    import shlex

    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate

    from skipstone import engine
    from skipstone.commands.finished import new_folder, open_model, require_training_data
    from skipstone.commands.grid import build_cells
    from skipstone.evaluation.labels import labels_of

    model, config = open_model(config)
    grid = config.evaluation
    cells = build_cells(config, model.process, grid.taus, grid.etas, grid.schedules, model)
    engine.require_labels(model.net, [cell.table for cell in cells], labels_of(model.net, 1), 1)
    images = instantiate(config.dataset)
    require_training_data(model, images)

    from skipstone.commands.evaluate import review, yardsticks

    held_against = yardsticks(config, images, model.device)
    folder = new_folder(config.out)
    command = shlex.join([*called("evaluate"), *HydraConfig.get().overrides.task])
    review(config, model, cells, held_against, folder, command, group=model.folder.name, job_type="evaluate")


if __name__ == "__main__":
    main(job)

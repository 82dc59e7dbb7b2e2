"""The stored models, and remove=<key> to remove one: python scripts/models.py"""

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.called import called
from skipstone.commands.cli import CONF, main


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="models")
def job(config: DictConfig) -> None:
    """Prints a row per finished model; with remove=<key> that model's, and then removes it."""
    settings.check(config)
    from skipstone.report import terminal
    from skipstone.store import listing
    from skipstone.store.models import ModelStore

    store = ModelStore(config.paths.outputs)
    if config.remove is not None:
        listing.remove(store, str(config.remove), lambda row: terminal.print_rows([row], "To be removed"))
        print(f"Removed {config.remove}.")
    elif rows := listing.rows(store):
        terminal.print_rows(rows, f"Models in {store.root}")
    else:
        print(f"No model is stored in {store.root}: train one with {' '.join(called('train'))}.")


if __name__ == "__main__":
    main(job)

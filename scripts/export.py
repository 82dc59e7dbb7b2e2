"""A finished model for others: python scripts/export.py run=<key> to=diffusers out=<folder>"""

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import CONF, main


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="export")
def job(config: DictConfig) -> None:
    """Writes the folder, with a model card; `push` uploads it."""
    settings.check(config)
    import csv
    from pathlib import Path

    from skipstone.commands.finished import new_folder, stored_model
    from skipstone.exchange import export
    from skipstone.report.card import card
    from skipstone.store import files, stored

    if config.to not in export.FORMS:
        raise ValueError(f"to={config.to} is unknown: choose {', '.join(export.FORMS[:-1])} or {export.FORMS[-1]}.")
    source, net, process = stored_model(config)
    cells = []
    if config.cells is not None:
        path = Path(config.cells) / "evaluation.csv"
        try:
            cells = list(csv.DictReader(path.open(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cells={config.cells} must be a run's folder, with its evaluation.csv: {error}."
            ) from error
    trained = stored.read_config(source, foreign=True)
    facts = {"license": config.license, "data": config.data or trained["dataset"]["name"], "key": source.name}
    facts |= {"steps": trained.get("trainer", {}).get("max_steps"), "seed": trained.get("seed")}
    write = export.writer(config.to, net, process)
    folder = new_folder(config.out)
    write(folder)
    files.write(folder / "README.md", card(source.name, config.to, facts, cells).encode())
    if config.push is not None:
        export.push(folder, config.push)
    print(f"{source.name} for {config.to} in {folder}")


if __name__ == "__main__":
    main(job)

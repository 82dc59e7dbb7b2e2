"""What each proxy sees and what it misses: python scripts/study.py run=<key> dataset=mnist dataset.root=<folder>

Real held-out images at graded damage, and the (tau x eta) cells of a model, on each distance.
"""

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import CONF, main


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="study")
def job(config: DictConfig) -> None:
    """Writes study.csv (rank correlations, and from where on a proxy sees) and study.png (every series)."""
    settings.check(config)
    settings.require_number(config, "n", int, 2)
    import itertools
    from pathlib import Path

    from hydra.utils import instantiate

    from skipstone.commands.finished import new_folder, open_model, require_training_data
    from skipstone.commands.grid import build_cells

    model, config = open_model(config)
    cells = build_cells(config, model.process, config.taus, config.etas, model=model)
    images = instantiate(config.dataset)
    require_training_data(model, images)

    from skipstone import progress
    from skipstone.evaluation.evaluate import evaluate
    from skipstone.report import csv, terminal
    from skipstone.studies.proxies import study
    from skipstone.studies.proxies.corruptions import CORRUPTIONS, require_labels
    from skipstone.studies.proxies.figure import save_study

    require_labels(images)
    proxies = instantiate(config.metrics)(
        images=images, n=config.n, outputs=Path(config.paths.outputs), device=model.device
    )
    total, done = config.floors + sum(len(kind.levels) for kind in CORRUPTIONS), itertools.count(1)
    with progress.shown("damage", "sets") as show:
        floors = study.Floors(images, proxies, config.floors, model.device, lambda: show(next(done), total))
        findings = study.damage(images, proxies, floors, config.repeats, lambda: show(next(done), total))
    with progress.shown(f"sampling {len(cells)} cells of {config.n} images", "evaluations") as show:
        results = evaluate(
            model.net,
            cells,
            images.shape,
            proxies,
            seed=config.seed,
            batch_size=config.batch_size,
            progress=show,
        )
    findings += study.cells(results, floors)
    folder = new_folder(config.out)
    rows = study.summary(findings, floors)
    csv.write_rows(rows, folder / "study.csv", ours=floors.names)
    csv.write_csv(results, folder / "evaluation.csv")
    save_study(findings, folder / "study.png")
    title = f"{images.name}, {config.n} images: rank correlation, and the level from which on it is seen"
    terminal.print_rows(rows, title)
    print(f"Look next at {folder / 'study.png'}")


if __name__ == "__main__":
    main(job)

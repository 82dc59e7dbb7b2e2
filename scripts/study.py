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
    from pathlib import Path

    from hydra.utils import instantiate

    from skipstone.commands.finished import new_folder, open_model, require_training_data
    from skipstone.commands.grid import build_cells

    model, config = open_model(config)
    cells = build_cells(config, model.process, config.taus, config.etas, costs=model.costs)
    images = instantiate(config.dataset)
    require_training_data(model, images)

    from rich.progress import Progress

    from skipstone.evaluation.evaluate import evaluate
    from skipstone.report import csv, terminal
    from skipstone.studies.proxies import study
    from skipstone.studies.proxies.corruptions import CORRUPTIONS, require_labels
    from skipstone.studies.proxies.figure import save_study

    require_labels(images)
    proxies = instantiate(config.metrics)(
        images=images, n=config.n, outputs=Path(config.paths.outputs), device=model.device
    )
    with Progress(transient=True) as bar:
        task = bar.add_task("damage", total=config.floors + sum(len(kind.levels) for kind in CORRUPTIONS))
        floors = study.Floors(images, proxies, config.floors, model.device, lambda: bar.advance(task))
        findings = study.damage(images, proxies, floors, config.repeats, lambda: bar.advance(task))
        task = bar.add_task("cells")
        results = evaluate(
            model.net,
            cells,
            images.shape,
            proxies,
            seed=config.seed,
            batch_size=config.batch_size,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
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

"""A table fitted to a model, for solver=fitted: python scripts/fit.py run=<key> nfe=5"""

import time

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import CONF, main

BEGAN = time.perf_counter()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="fit")
def job(config: DictConfig) -> None:
    """Writes tables/fitted-nfe5.json into the model's folder, with the curve of the fit as .csv and .png."""
    from skipstone.commands.fit import base_of, take_nfes

    nfes = take_nfes(config)
    settings.check(config)
    from skipstone.commands.finished import open_model, require_training_data

    model, config = open_model(config)
    given = {nfe: base_of(config, model, nfe) for nfe in nfes}

    from pathlib import Path

    from hydra.utils import instantiate
    from rich.progress import Progress

    from skipstone.fitting.bases import bases
    from skipstone.fitting.fit import Fitter, Settings, longer
    from skipstone.fitting.objective import Objective
    from skipstone.fitting.pairs import solve
    from skipstone.fitting.perception import Perception
    from skipstone.report import fitted, terminal

    images = instantiate(config.dataset)
    require_training_data(model, images)
    perception = Perception.of(images, Path(config.paths.outputs), model.device, config.classifier_steps)
    pairs = solve(model.net, model.process, model.shape, config.pairs, config.seed)
    how = Settings(config.iterations, config.batch_size, config.learning_rate, config.held_out, config.seed)
    objective = Objective(pairs, perception, model.process, config.moments, config.points)
    fitter, shorter, rows = Fitter(model.net, model.process, objective, how), None, []
    for nfe in nfes:
        tables = given[nfe] or bases(model.process, nfe, model.costs())
        if not given[nfe] and shorter is not None and shorter.nfe == nfe - 1:
            tables |= longer(shorter, model.process)
        name = fitter.best(tables)
        with Progress(transient=True) as bar:
            task = bar.add_task(f"fitting nfe={nfe}")
            fit = fitter.fit(
                name, tables[name], lambda done, total, task=task: bar.update(task, completed=done, total=total)
            )
        provenance = {
            "solver": "fitted", "base": name, "objective": perception.name, "before": fit.before, "after": fit.after,
            **{key: config[key] for key in
               ("seed", "pairs", "held_out", "iterations", "batch_size", "learning_rate", "moments", "points")},
        }  # fmt: skip
        path = model.tables.write(fit.table, provenance)
        fitted.save(fit, tables[name], path)
        shorter = fit.table
        rows.append(
            {"nfe": nfe, "base": name, "of the base": fit.before, "of the table": fit.after, "helped": fit.helped}
        )
        if not fit.helped:
            print(
                f"nfe={nfe}: no correction was better than {name} on the pairs that are never fitted: it is the table."
            )
    terminal.print_rows(rows, f"distance to the fine solution by {perception.name}")
    print(
        f"Use it with solver=fitted nfe={nfes[-1]}; look next at {path.with_suffix('.png')} ({time.perf_counter() - BEGAN:.0f} s)"
    )


if __name__ == "__main__":
    main(job)

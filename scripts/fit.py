"""A table fitted to a model, for solver=fitted: python scripts/fit.py run=<key> nfe=5"""

import time

import hydra
from omegaconf import DictConfig

from skipstone.commands import settings
from skipstone.commands.cli import CONF, main

HOW = ("iterations", "batch_size", "learning_rate", "held_out", "seed")
_MOST = 5000  # training images whose mean and covariance are found
BEGAN = time.perf_counter()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="fit")
def job(config: DictConfig) -> None:
    """Writes tables/fitted-nfe5.json into the model's folder, with the curve of the fit as .csv and .png."""
    from skipstone.commands.fit import base_of, take_nfes

    nfes = take_nfes(config)
    settings.check(config)
    config.nfe = None  # of no table yet
    from skipstone.commands.finished import open_model, require_training_data
    from skipstone.fitting.fit import Fitter, Settings, longer

    how = Settings(**{key: config[key] for key in HOW})
    how.require(config.pairs)

    model, config = open_model(config)
    given = {nfe: base_of(config, model, nfe) for nfe in nfes}

    from pathlib import Path

    from hydra.utils import instantiate

    from skipstone import progress
    from skipstone.data import pick, to_unit
    from skipstone.fitting.bases import bases
    from skipstone.fitting.objective import Objective
    from skipstone.fitting.pairs import solve
    from skipstone.fitting.perception import Perception
    from skipstone.report import fitted, terminal

    images = instantiate(config.dataset)
    require_training_data(model, images)
    process = model.process
    perception = Perception.of(images, Path(config.paths.outputs), model.device, config.classifier_steps)
    pairs = solve(model.net, process, model.shape, config.pairs, config.seed)
    data = to_unit(pick(images.seen, _MOST)).to(model.device) if config.real else None
    objective = Objective(pairs, perception, process, config.moments, config.points, data)
    fitter = Fitter(model.net, process, objective, how)
    made_from = {"objective": perception.name}
    made_from |= {key: config[key] for key in (*HOW, "pairs", "moments", "points", "real")}
    shorter, rows = None, []
    for nfe in nfes:
        tables = given[nfe] or bases(process, nfe, model.costs())
        if not given[nfe] and shorter is not None and shorter.nfe == nfe - 1:
            tables |= longer(shorter, process)
        name = fitter.best(tables)
        with progress.shown(f"fitting nfe={nfe}", "iterations") as show:
            fit = fitter.fit(name, tables[name], show)
        told = {"nfe": nfe, "base": name, "before": fit.before, "after": fit.after}
        path = model.tables.write(fit.table, {"solver": "fitted", **told, **made_from})
        fitted.save(fit, tables[name], path)
        shorter = fit.table
        rows.append(told)
        if not fit.helped:
            print(f"nfe={nfe}: no correction was better than {name} on the pairs that are never fitted, so it stays.")
    terminal.print_rows(rows, f"objective on pairs that were never fitted, by {perception.name}")
    print(f"Use them with solver=fitted nfe={nfe}; look next at {path.with_suffix('.png')}")
    print(f"{time.perf_counter() - BEGAN:.0f} s after the start")


if __name__ == "__main__":
    main(job)

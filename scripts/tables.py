"""The DDIM paper's tables from one finished model: python scripts/tables.py run=<key> dataset=cifar10

A run that was cut off, or left parts out for its budget, goes on with out=<its folder>.
"""

import time

import hydra
from omegaconf import DictConfig

from skipstone.commands.cli import CONF, main

BEGAN = time.perf_counter()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="tables")
def job(config: DictConfig) -> None:
    """Writes results.json, results.csv (every cell), results.md (the page) and its pictures results-*.png."""
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from skipstone.commands import settings
    from skipstone.commands.finished import open_model, require_training_data
    from skipstone.studies.paper import Ledger, Tables, about, carry_out, page, story

    def spent() -> float:
        return time.perf_counter() - BEGAN

    settings.check(config)
    tried = story.read_tried(config.tried)
    model, config = open_model(config)
    try:
        baseline = None if config.baseline is None else open_model(OmegaConf.merge(config, {"run": config.baseline}))[0]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"baseline: {error}") from error
    images = instantiate(config.dataset)
    for net in filter(None, (model, baseline)):
        require_training_data(net, images)
    beside = None if baseline is None else about.weights_of(baseline)
    ledger = Ledger(Path(config.out), about.identity(config, model, images, Tables.SETTINGS, baseline=beside))
    before = {"start and data": spent()}
    tables = Tables(config, model, images, baseline)
    accuracy = about.classifier_accuracy(tables.proxies)
    before["classifier and real features"] = spent() - sum(before.values())
    machine = about.machine(model)
    ledger.results |= {
        "model": about.model_facts(model),
        "baseline": None if baseline is None else about.model_facts(baseline),
        "data": about.data_facts(config, images),
        "classifier_accuracy": accuracy,
        "machine": machine,
        "command": about.command("tables", list(HydraConfig.get().overrides.task)),
        "train_command": config.train_command,
        "tried": tried,
        "before": before,
    }
    ahead = ledger.missing(tables.parts)
    if ahead:
        before["compiling"], rate = tables.warm_up()
        limits = {"rate": rate, "budget": config.budget, "spent": spent}
        carry_out(ahead, ledger, **limits, device=machine["device"], entered=lambda: page.write_page(ledger))
    ledger.save()
    path = page.write(ledger, model.folder / "metrics.csv")
    print(f"Look next at {path} ({spent():.0f} s after the start)")


if __name__ == "__main__":
    main(job)

"""Quality against evaluations, every solver on its best schedule: python scripts/quality.py run=<key> dataset=cifar10

A run that was cut off, or left solvers out for its budget, goes on with out=<its folder>.
"""

import time

import hydra
from omegaconf import DictConfig

from skipstone.commands.cli import CONF, main

BEGAN = time.perf_counter()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="quality")
def job(config: DictConfig) -> None:
    """Writes results.json, quality.csv (every cell), quality.md (the page) and quality.png after every solver."""
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate

    from skipstone.commands import settings
    from skipstone.commands.finished import open_model, require_training_data

    def spent() -> float:
        return time.perf_counter() - BEGAN

    settings.check(config)
    model, config = open_model(config)
    images = instantiate(config.dataset)
    require_training_data(model, images)

    from skipstone.studies.paper import Ledger, about, carry_out
    from skipstone.studies.quality import page
    from skipstone.studies.quality.race import Race

    race = Race(config, model, images)
    ledger = Ledger(Path(config.out), about.identity(config, model, images, Race.SETTINGS))
    ledger.results |= {
        "model": about.model_facts(model),
        "machine": about.machine(model),
        "command": about.command("quality", list(HydraConfig.get().overrides.task)),
        "classifier_accuracy": about.classifier_accuracy(race.proxies),
    }
    ahead = ledger.missing(race.parts)
    if ahead:
        rate = race.warm_up()[1]
        limits = {"rate": rate, "budget": config.budget, "spent": spent}
        device = ledger.results["machine"]["device"]
        carry_out(ahead, ledger, **limits, device=device, entered=lambda: page.write(ledger))
    ledger.save()
    path = page.write(ledger)
    print(f"Look next at {path} ({spent():.0f} s after the start)")


if __name__ == "__main__":
    main(job)

"""Results on disk: what a report shows of a run's cells, so that a sweep's jobs can be put on one page later."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from skipstone.evaluation.evaluate import Film, Result
from skipstone.evaluation.metrics import Measured, Metric
from skipstone.evaluation.metrics import metric as metrics
from skipstone.store import tensors

_NAME = "results.safetensors"
_METADATA = frozenset({"results", "command"})
_KEPT = 64  # samples a cell: as many as a page shows


def save(results: Sequence[Result], model: str, command: str, folder: Path) -> None:
    """Write the results of one model's cells into a run's folder: every number and film, the first samples.

    command: the one that gave them.
    """
    shown: dict[str, Tensor] = {}
    told = []
    for i, result in enumerate(results):
        shown[f"{i}.samples"] = result.samples[:_KEPT]
        if result.film is not None:
            shown |= {f"{i}.x": result.film.x, f"{i}.x0": result.film.x0}
        steps = result.film and {"t": result.film.t, "p": result.film.p}
        numbers = {"row": {"model": model, **result.facts}, "measured": [asdict(m) for m in result.measured.values()]}
        told.append({"own": result.own, **numbers, "steps": steps})
    tensors.write(shown, folder / _NAME, {"results": json.dumps(told), "command": command})


def there(folder: Path) -> bool:
    """Whether a run left results, be they whole or not."""
    return (folder / _NAME).is_file()


def command(folder: Path) -> str | None:
    """The command that gave the results in the folder; None where there are none that can be read."""
    try:
        return tensors.read(folder / _NAME, _METADATA).about.get("command")
    except (OSError, ValueError):
        return None


def set_aside(folder: Path) -> Path:
    """Keep the results in the folder under another name, for they are not this job's; that name."""
    path = folder / _NAME
    kept = path.with_name(f"foreign-{path.stat().st_mtime_ns}.safetensors")
    return path.rename(kept)


def load(folder: Path) -> list[Result]:
    """What `save` wrote into the folder; facts say which model. Raises OSError, and ValueError for a damaged file."""
    try:
        kept = tensors.read(folder / _NAME, _METADATA)
        told = enumerate(json.loads(kept.about["results"]))
        results = [_result(f"{i}.", each, kept.tensors) for i, each in told]
        _ = [(result.name, result.settings, result.facts["model"]) for result in results]  # they are ours
        return results
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{folder / _NAME} is damaged or of another version ({error}): remove it, and resume=<the sweep> runs that "
            "job again."
        ) from error


def _result(prefix: str, told: dict[str, Any], shown: Mapping[str, Tensor]) -> Result:
    steps = told["steps"]
    film = steps and Film(steps["t"], steps["p"], shown[f"{prefix}x"], shown[f"{prefix}x0"])
    row = told["row"]
    if "measured" in told:
        measured = [
            Measured(**{**each, "metric": Metric(**each["metric"]), "replicates": tuple(each["replicates"])})
            for each in told["measured"]
        ]
    else:  # of an earlier version, whose rows held the numbers
        measured = list(metrics.read(row).values())
    numbers = {each.metric.name: each for each in measured}
    return Result(told["own"], shown[f"{prefix}samples"], metrics.facts(row), numbers, film)


def renamed(result: Result, name: str) -> Result:
    """The result under another cell name."""
    return replace(result, facts={**result.facts, "cell": name})

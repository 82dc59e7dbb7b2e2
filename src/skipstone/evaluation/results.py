"""Results on disk: what a report shows of a run's cells, so that a sweep's jobs can be put on one page later."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from skipstone.evaluation.evaluate import CLOCK, Batch, Film, Result
from skipstone.evaluation.metrics import Measured, Memorisation, Metric
from skipstone.evaluation.metrics import metric as metrics
from skipstone.store import tensors

_NAME = "results.safetensors"
_METADATA = frozenset({"results", "command"})
_KEPT = 64  # samples a cell: as many as a page shows


@dataclass(frozen=True)
class Training:
    """Of the model that was sampled.

    steps:    that it was trained for; None where that is not known
    losses:   (step, loss) by name
    seconds:  that its training took in this run, validation included; None where another run trained it
    begun_at: the step from which this run went on
    """

    steps: int | None = None
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    seconds: float | None = None
    begun_at: int = 0


@dataclass(frozen=True)
class About:
    """What a run found out beside its cells.

    training: of its model.  memory: how near the samples of the user's own cell come to the training images.
    """

    training: Training = Training()
    memory: Memorisation | None = None


def save(results: Sequence[Result], model: str, command: str, folder: Path, about: About | None = None) -> None:
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
        batch = result.batch and asdict(result.batch)
        told.append({"own": result.own, **numbers, "steps": steps, "batch": batch, "lost": result.lost})
    metadata = {"results": json.dumps(told), "command": command, "about": json.dumps(asdict(about or About()))}
    tensors.write(shown, folder / _NAME, metadata)


def there(folder: Path) -> bool:
    """Whether a run left results, be they whole or not."""
    return (folder / _NAME).is_file()


def command(folder: Path) -> str | None:
    """The command that gave the results in the folder; None where there are none that can be read."""
    try:
        return tensors.read(folder / _NAME, _METADATA).about.get("command")
    except (OSError, ValueError):
        return None


def about(folder: Path) -> About:
    """What the run said beside its cells; nothing where it is of an earlier version. Raises as `load` does."""
    with _read(folder) as kept:
        told = json.loads(kept.about.get("about", "{}"))
        training, memory = told.get("training", {}), told.get("memory")
        return About(Training(**training), memory and Memorisation(*memory))


def model(folder: Path) -> str | None:
    """The key of the model that gave the results in the folder; None where there are none that can be read."""
    try:
        with _read(folder) as kept:
            return str(json.loads(kept.about["results"])[0]["row"]["model"])
    except (OSError, ValueError):
        return None


def set_aside(folder: Path) -> Path:
    """Keep the results in the folder under another name, for they are not this job's; that name."""
    path = folder / _NAME
    kept = path.with_name(f"foreign-{path.stat().st_mtime_ns}.safetensors")
    return path.rename(kept)


def load(folder: Path) -> list[Result]:
    """What `save` wrote into the folder; facts say which model. Raises OSError, and ValueError for a damaged file."""
    with _read(folder) as kept:
        told = json.loads(kept.about["results"])
        results = [_result(f"{i}.", each, kept.tensors, len(told) == 1) for i, each in enumerate(told)]
        _ = [(result.name, result.settings, result.facts["model"]) for result in results]  # they are ours
        return results


@contextmanager
def _read(folder: Path) -> Iterator[tensors.Kept]:
    """The file's content. Raises ValueError for what goes wrong with it meanwhile."""
    try:
        yield tensors.read(folder / _NAME, _METADATA)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{folder / _NAME} is damaged or of another version ({error}): remove it, and resume=<the sweep> runs that "
            "job again."
        ) from error


def _result(prefix: str, told: dict[str, Any], shown: Mapping[str, Tensor], alone: bool) -> Result:
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
    batch, facts = told.get("batch"), metrics.facts(row)
    if "batch" not in told and not alone:  # an earlier version shared the time out by NFE
        facts |= dict.fromkeys(CLOCK)
    return Result(
        told["own"], shown[f"{prefix}samples"], facts, numbers, film, batch and Batch(**batch), told.get("lost")
    )


def renamed(result: Result, name: str) -> Result:
    """The result under another cell name."""
    return replace(result, facts={**result.facts, "cell": name})

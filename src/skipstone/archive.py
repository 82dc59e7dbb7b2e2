"""Results on disk: what a report shows of a run's cells, so that a sweep's jobs can be put on one page later."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from skipstone.evaluation import Film, Result
from skipstone.runs import write_tensors

_NAME = "results.safetensors"
_KEPT = 64  # samples a cell: as many as a page shows


def save(results: Sequence[Result], model: str, folder: Path) -> None:
    """Write the results of one model's cells into a run's folder: every row and film, the first samples."""
    tensors: dict[str, Tensor] = {}
    told = []
    for i, result in enumerate(results):
        tensors[f"{i}.samples"] = result.samples[:_KEPT]
        if result.film is not None:
            tensors |= {f"{i}.x": result.film.x, f"{i}.x0": result.film.x0}
        steps = result.film and {"t": result.film.t, "p": result.film.p}
        told.append({"own": result.own, "row": {"model": model, **result.row}, "steps": steps})
    write_tensors(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / _NAME, {"results": json.dumps(told)}
    )


def there(folder: Path) -> bool:
    """Whether a run came to its results."""
    return (folder / _NAME).is_file()


def load(folder: Path) -> list[Result]:
    """What `save` wrote into the folder; rows say which model. Raises ValueError for a damaged or foreign file."""
    try:
        with safe_open(folder / _NAME, "pt") as file:
            results = []
            for i, told in enumerate(json.loads(file.metadata()["results"])):
                samples, steps = file.get_tensor(f"{i}.samples"), told["steps"]
                film = steps and Film(steps["t"], steps["p"], file.get_tensor(f"{i}.x"), file.get_tensor(f"{i}.x0"))
                results.append(Result(told["own"], samples, told["row"], film))
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{folder / _NAME} is damaged or of another version ({error}): remove it, and resume=<the sweep> runs that "
            "job again."
        ) from error
    return results


def renamed(result: Result, name: str) -> Result:
    """The result under another cell name."""
    return replace(result, row={**result.row, "cell": name})

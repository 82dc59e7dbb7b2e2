"""report.html: one self-contained file that says what a run gave and how to get it again."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import torch
from torch import Tensor

from skipstone import __version__
from skipstone.evaluation.evaluate import CLOCK, Result
from skipstone.evaluation.metrics.metric import SOLVER_RMSE, Measured, Metric, leading, limit_name, median_name
from skipstone.evaluation.sampled import Film
from skipstone.report import pictures
from skipstone.report.embed import Embedded, embed_file, embed_samples
from skipstone.report.explorer import explorer_data
from skipstone.report.rows import batches, caption, choices, finite, metrics, nearest, numbers, show, time
from skipstone.report.tiles import tiled
from skipstone.store import files

_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics")
_STRIPS = 4  # samples whose way from noise is printed step by step


@dataclass(frozen=True)
class Neighbours:
    """Samples beside the training images nearest to them, so that memorised ones are seen.

    samples: uint8 [k, C, H, W].  nearest: uint8 [k, j, C, H, W], nearest first.  distances: float [k, j], of
    `nearest`, root mean square in the [−1, 1] scale.  sentence: what the distances of all samples say together.
    """

    samples: Tensor
    nearest: Tensor
    distances: Tensor
    sentence: str


@dataclass(frozen=True)
class Overview:
    """What the page of a sweep tells of all its jobs, where that of a run speaks of the user's own cell.

    trainings:  one row per model
    memory:     one row per cell that was held against the training images
    averaged:   the cells over seeds (seeds.average); empty where no seed was swept over
    """

    trainings: Sequence[dict[str, Any]]
    memory: Sequence[dict[str, Any]]
    averaged: Sequence[Result]


@dataclass(frozen=True)
class Story:
    """What the page tells beside the cells.

    model: the model's folder name.  config: the composed configuration as YAML.  command: what to type to get the
    same again.  training_curve: where there is one.  notes: sentences for the top, such as warnings.  overview: of a
    sweep.
    """

    model: str
    config: str
    command: str
    training_curve: Embedded | None = None
    neighbours: Neighbours | None = None
    notes: Sequence[str] = ()
    overview: Overview | None = None


def write_page(results: Sequence[Result], folder: Path, story: Story) -> Path:
    """Write report.html into a run's folder, in which curves.png and contact.png lie; returns its path."""
    rows = [result.facts for result in results]
    sweep = story.overview
    averaged = sweep.averaged if sweep else []
    compared, measured = averaged or results, metrics(averaged or results)
    own = next((result for result in results if result.own), results[0])
    best = {name: nearest(compared, name) for name in measured}
    page = _template().render(
        story=story,
        sweep=sweep,
        results=results,
        own=own,
        compared=compared,
        columns=(columns := _columns(compared)),
        of_seeds=_columns(results) if averaged else [],
        choices=choices(rows),
        best={name: compared[i] for name, i in best.items() if i is not None},
        models=len({row.get("model") for row in rows}),
        nfes=sorted({row["nfe"] for row in rows}),
        batches=batches(results),
        time=time(results),
        timed=[row["seconds"] for row in rows if finite(row["seconds"])],
        one_network=len({(row.get("model"), row.get("seed")) for row in rows}) == 1,
        one_noise=len({row.get("seed") for row in rows}) == 1,
        measured=measured,
        higher=[name for name in measured if not _metric(results, name).lower_is_better],
        has_limits=any(column.limit for column in columns),
        solver_error=SOLVER_RMSE.name in measured,
        counts=sorted({row["images"] for row in rows}),
        curves=embed_file(folder / "curves.png"),
        sheet=embed_file(folder / "contact.png"),
        grids=[embed_samples(pictures.grid(result.samples)) for result in results],
        shown=min(pictures.GRID_IMAGES, len(own.samples)),
        explorer=explorer_data(results),
        strips=[] if sweep else _strips(own.film),
        neighbours=_neighbours(story.neighbours),
        training_curve=story.training_curve,
        versions={"skipstone": __version__, "python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
    )
    path = folder / "report.html"
    files.write(path, page.encode(errors="backslashreplace"))
    return path


@cache
def _template() -> jinja2.Template:
    """Compiled once a process."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skipstone", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"show": show, "caption": caption}
    return environment.get_template("page.html")


class _Column(NamedTuple):
    """A column of the table: what each cell has in it and, where that is a metric, what stands beside it."""

    name: str
    values: Sequence[Any]
    spreads: Sequence[float | None]
    floors: Sequence[float | None]
    best: Sequence[bool]
    limit: bool = False


def _columns(results: Sequence[Result]) -> list[_Column]:
    """Facts, metrics, limits, times; without settings that all cells share."""
    facts = [result.facts for result in results]
    kinds = ("model", "solver", "sigma", "to_data", "clip_x0")
    shared = {name for name in kinds if len({row.get(name) for row in facts}) == 1}
    names = [name for name in dict.fromkeys(name for row in facts for name in row) if name not in shared | {"cell"}]
    none, never = [None] * len(results), [False] * len(results)

    def fact(name: str) -> _Column:
        return _Column(name, [row.get(name) for row in facts], none, none, never)

    columns, limits = [fact(name) for name in names if name not in CLOCK], []
    for name in metrics(results):
        found = numbers(results, name)
        columns.append(_Column(name, _of(found, "value"), _of(found, "spread"), _of(found, "floor"), leading(found)))
        if any(map(finite, _of(found, "median"))):
            columns.append(_Column(median_name(name), _of(found, "median"), none, none, never))
        if any(map(finite, _of(found, "limit"))):
            limit_floors = _of(found, "limit_floor")
            limits.append(_Column(limit_name(name), _of(found, "limit"), none, limit_floors, never, limit=True))
    clocks = [name for name in CLOCK if any(finite(row.get(name)) for row in facts)]
    return [*columns, *limits, *map(fact, clocks)]


def _of(found: Sequence[Measured | None], what: str) -> list[float | None]:
    return [None if each is None else getattr(each, what) for each in found]


def _metric(results: Sequence[Result], name: str) -> Metric:
    return next(result.measured[name].metric for result in results if name in result.measured)


def _strips(film: Film | None) -> list[Embedded]:
    """One picture a sample: its x_t above its predicted x0, a column a step."""
    if film is None:
        return []
    return [
        embed_samples(tiled(torch.cat([film.x[:, k], film.x0[:, k]]), columns=len(film.t)))
        for k in range(min(_STRIPS, film.x.shape[1]))
    ]


class _Pair(NamedTuple):
    sample: Embedded
    nearest: Embedded
    distances: list[float]


def _neighbours(neighbours: Neighbours | None) -> list[_Pair]:
    if neighbours is None:
        return []
    return [
        _Pair(embed_samples(sample), embed_samples(tiled(nearest, columns=len(nearest))), distances)
        for sample, nearest, distances in zip(
            neighbours.samples, neighbours.nearest, neighbours.distances.tolist(), strict=True
        )
    ]

"""report.html: one self-contained file that says what a run gave and how to get it again."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jinja2
import torch
from torch import Tensor
from torchvision.utils import make_grid

from skipstone import __version__
from skipstone.evaluation.evaluate import Film, Result
from skipstone.report import pictures
from skipstone.report.embed import Embedded, embed_file, embed_samples
from skipstone.report.explorer import explorer_data
from skipstone.report.rows import Row, caption, finite, floor, metrics, show
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
class Story:
    """What the page tells beside the cells.

    model: the model's folder name.  config: the composed configuration as YAML.  command: what to type to get the
    same again.  training_curve: where there is one.  notes: sentences for the top, such as warnings.
    """

    model: str
    config: str
    command: str
    training_curve: Embedded | None = None
    neighbours: Neighbours | None = None
    notes: Sequence[str] = ()


def write_page(results: Sequence[Result], folder: Path, story: Story) -> Path:
    """Write report.html into a run's folder, in which curves.png and contact.png lie; returns its path."""
    rows = [result.row for result in results]
    own = next((result for result in results if result.own), results[0])
    page = _template().render(
        story=story,
        results=results,
        own=own,
        columns=_columns(rows),
        one_network=len({(row.get("model"), row.get("seed")) for row in rows}) == 1,
        best={metric: _best(rows, metric) for metric in metrics(rows)},
        measured=metrics(rows),
        floor=floor,
        floors=list({row["images"]: row for row in rows}.values()),
        curves=embed_file(folder / "curves.png"),
        sheet=embed_file(folder / "contact.png"),
        grids=[embed_samples(pictures.grid(result.samples)) for result in results],
        shown=min(pictures.GRID_IMAGES, len(own.samples)),
        explorer=explorer_data(results),
        strips=_strips(own.film),
        neighbours=_neighbours(story.neighbours),
        training_curve=story.training_curve,
        versions={"skipstone": __version__, "python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
    )
    path = folder / "report.html"
    files.write(path, page.encode())
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


def _columns(rows: Sequence[Row]) -> list[str]:
    """Those of evaluation.csv that the table shows: not a setting that all cells share; floors have their own line."""
    names = dict.fromkeys(name for row in rows for name in row)
    kinds = ("model", "solver", "sigma", "to_data", "clip_x0")
    shared = {name for name in kinds if len({row.get(name) for row in rows}) == 1}
    return [name for name in names if name not in shared | {"cell"} and not name.endswith(("_floor", "_std"))]


def _best(rows: Sequence[Row], metric: str) -> float | None:
    """The least value, where there are several to choose from."""
    values = [row[metric] for row in rows if finite(row.get(metric))]
    return min(values) if len(values) > 1 else None


def _strips(film: Film | None) -> list[Embedded]:
    """One picture a sample: its x_t above its predicted x0, a column a step."""
    if film is None:
        return []
    return [
        embed_samples(make_grid(torch.cat([film.x[:, k], film.x0[:, k]]), nrow=len(film.t), padding=1, pad_value=96))
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
        _Pair(embed_samples(sample), embed_samples(make_grid(nearest, padding=1, pad_value=96)), distances)
        for sample, nearest, distances in zip(
            neighbours.samples, neighbours.nearest, neighbours.distances.tolist(), strict=True
        )
    ]

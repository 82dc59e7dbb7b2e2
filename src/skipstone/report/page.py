"""report.html: one self-contained file that says what a run gave and how to get it again."""

import base64
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from skipstone import __version__
from skipstone.evaluation import Result

_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics")
_COLUMNS = (
    "schedule", "tau", "eta", "nfe", "images", "solver_rmse", "fd_random", "kid_random", "kid_random_std", "seconds",
    "images_per_second",
)  # fmt: skip


def write_page(results: Sequence[Result], folder: Path, config: str, model: str, arguments: Sequence[str]) -> Path:
    """Write report.html into a run's folder, from its curves.png and samples/.

    config: the composed configuration as YAML.  model: the model's folder.  arguments: of the command line.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skipstone", "report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["show"] = _show
    page = environment.get_template("page.html").render(
        columns=_COLUMNS,
        results=results,
        floors={name: results[0].row[f"{name}_floor"] for name in _COLUMNS if f"{name}_floor" in results[0].row},
        curves=_embed(folder / "curves.png"),
        grids={result.cell.name: _embed(folder / "samples" / f"{result.cell.name}.png") for result in results},
        config=config,
        model=model,
        command=shlex.join(["python", "train.py", *arguments]),
        versions={"skipstone": __version__, "python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _embed(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _show(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

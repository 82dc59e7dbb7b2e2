"""What a tracker is told of cells: numbers to any of Lightning's loggers; pictures, a table and curves to W&B."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import Logger

from skipstone.evaluation.evaluate import Result
from skipstone.report import pictures
from skipstone.report.rows import Row, caption, families, finite, floor, metrics, show

_THUMBNAILS = 16
_TELLING = ("fid", "fd_classifier", "fd_random", "kid_random")  # the most telling first: docs/metrics.md


def log_results(loggers: Sequence[Logger], results: Sequence[Result], step: int | None = None) -> None:
    """Every cell's numbers under cell/<name>/…, the floors under floor/…, and grids where a logger takes images."""
    rows = [result.row for result in results]
    measured = metrics(rows)
    numbers = {
        f"cell/{row['cell']}/{name}": row[name]
        for row in rows
        for name in ("nfe", *measured, *(f"{name}_infinity" for name in measured), "seconds", "images_per_second")
        if finite(row.get(name))
    }
    numbers |= {f"floor/{name}": floor(rows[0], name) for name in measured}
    for logger in loggers:
        logger.log_metrics(numbers, step=step)
        if hasattr(logger, "log_image"):
            for result in results:
                grid = pictures.grid(result.samples)
                logger.log_image(f"samples/{result.name}", [grid], step=step, caption=[_said(result.row)])


def log_review(logger: Logger, results: Sequence[Result]) -> None:
    """A finished evaluation: all of `log_results`, the user's own cell under plain names, and for W&B one table of the
    cells with thumbnails, each metric's curve against NFE, and the best cell in the summary."""
    log_results([logger], results)
    own = next((result for result in results if result.own), None)
    if own is not None:
        numbers = {name: value for name, value in own.row.items() if type(value) in (int, float)}  # no switches
        logger.log_metrics(numbers)
    if hasattr(logger, "log_table"):
        rows = [result.row for result in results]
        logger.experiment.log({"cells": _table(results), **_curves(rows)})
        logger.experiment.summary.update(_best(rows))


def _said(row: Row) -> str:
    """What a picture of a cell shows, and what the cell scores beside the floors."""
    numbers = (f"{name} {show(row[name])} (floor {show(floor(row, name))})" for name in metrics([row]))
    return "; ".join([caption(row), *numbers])


def _table(results: Sequence[Result]) -> Any:
    """One row a cell, with its first samples: a wandb.Table."""
    import wandb

    columns = list(results[0].row)
    table = wandb.Table(columns=["samples", *columns])
    for result in results:
        thumbnail = wandb.Image(pictures.grid(result.samples[:_THUMBNAILS]), caption=_said(result.row))
        table.add_data(thumbnail, *(result.row[name] for name in columns))
    return table


def _curves(rows: Sequence[Row]) -> dict[str, Any]:
    """curve/<metric>: one line a (schedule, η), and the floor."""
    import wandb

    charts = {}
    for metric in metrics(rows):
        lines: dict[str, list[tuple[int, float]]] = {}
        for family, indices in families(rows).items():
            for row in sorted((rows[i] for i in indices), key=lambda row: row["nfe"]):
                if finite(row.get(metric)):
                    lines.setdefault(f"{family} η={row['eta']:g}", []).append((row["nfe"], row[metric]))
        nfes = [row["nfe"] for row in rows]
        lines["floor"] = [(nfe, floor(rows[0], metric)) for nfe in (min(nfes), max(nfes))]
        xs, ys = zip(*(zip(*points, strict=True) for points in lines.values()), strict=True)
        charts[f"curve/{metric}"] = wandb.plot.line_series(
            xs=xs, ys=ys, keys=list(lines), title=f"{metric} against NFE", xname="NFE"
        )
    return charts


def _best(rows: Sequence[Row]) -> dict[str, Any]:
    """The cell that comes nearest to the data by the most telling distance there is, and all its distances."""
    measured = [name for name in metrics(rows) if name != "solver_rmse"]
    telling = next((name for name in _TELLING if name in measured), "fd_random")
    row = min((row for row in rows if finite(row.get(telling))), key=lambda row: row[telling], default=None)
    return (
        {}
        if row is None
        else {"best/cell": row["cell"], "best/nfe": row["nfe"], **{f"best/{name}": row[name] for name in measured}}
    )

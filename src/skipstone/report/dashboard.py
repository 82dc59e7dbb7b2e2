"""What a tracker is told of cells: numbers to any of Lightning's loggers; pictures, a table and curves to W&B."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import Logger

from skipstone.evaluation.evaluate import Result
from skipstone.evaluation.metrics import SOLVER_RMSE, limits_of, metrics_of
from skipstone.report import pictures
from skipstone.report.rows import Row, caption, families, finite, show

_THUMBNAILS = 16
_TELLING = ("fid", "fd_classifier", "fd_random", "kid_random")  # the most telling first: docs/metrics.md


def log_results(loggers: Sequence[Logger], results: Sequence[Result], step: int | None = None) -> None:
    """Every cell's numbers under cell/<name>/…, the floors under floor/…, and grids where a logger takes images."""
    rows = [result.row for result in results]
    measured = metrics_of(rows)
    columns = [metric.name for metric in (*measured, *limits_of(rows))]
    numbers = {
        f"cell/{row['cell']}/{name}": row[name]
        for row in rows
        for name in ("nfe", *columns, "seconds", "images_per_second")
        if finite(row.get(name))
    }
    numbers |= {f"floor/{metric.name}": metric.floor(rows[0]) for metric in measured}
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
    numbers = (f"{each.name} {show(each.value(row))} (floor {show(each.floor(row))})" for each in metrics_of([row]))
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
    for metric in metrics_of(rows):
        lines: dict[str, list[tuple[int, float]]] = {}
        for family, indices in families(rows).items():
            for row in sorted((rows[i] for i in indices), key=lambda row: row["nfe"]):
                if finite(metric.value(row)):
                    lines.setdefault(f"{family} η={row['eta']:g}", []).append((row["nfe"], metric.value(row)))
        nfes = [row["nfe"] for row in rows]
        lines["floor"] = [(nfe, metric.floor(rows[0])) for nfe in (min(nfes), max(nfes))]
        xs, ys = zip(*(zip(*points, strict=True) for points in lines.values()), strict=True)
        charts[f"curve/{metric.name}"] = wandb.plot.line_series(
            xs=xs, ys=ys, keys=list(lines), title=f"{metric.name} against NFE", xname="NFE"
        )
    return charts


def _best(rows: Sequence[Row]) -> dict[str, Any]:
    """The cell that comes nearest to the data by the most telling distance there is, and all its distances."""
    measured = {metric.name: metric for metric in metrics_of(rows) if metric != SOLVER_RMSE}
    telling = next((measured[name] for name in _TELLING if name in measured), None)
    if telling is None:
        return {}
    row = next(row for row in rows if telling.value(row) == telling.best(rows))
    numbers = {f"best/{name}": metric.value(row) for name, metric in measured.items()}
    return {"best/cell": row["cell"], "best/nfe": row["nfe"], **numbers}

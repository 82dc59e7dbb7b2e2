"""What a tracker is told of cells: numbers to any of Lightning's loggers; pictures, a table and curves to W&B."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import Logger

from skipstone.evaluation.evaluate import Result
from skipstone.evaluation.metrics.metric import limit_name
from skipstone.report import pictures
from skipstone.report.rows import batches, caption, families, finite, metrics, nearest, numbers, show, telling

_THUMBNAILS = 16


def log_results(loggers: Sequence[Logger], results: Sequence[Result], step: int | None = None) -> None:
    """Every cell's numbers under cell/<name>/…, the floors under floor/…, and grids where a logger takes images."""
    told: dict[str, float] = {}
    for result in results:
        values = {name: result.facts[name] for name in ("nfe", "seconds", "images_per_second")}
        for name, each in result.measured.items():
            values |= {name: each.value, limit_name(name): each.limit}
        told |= {f"cell/{result.name}/{name}": value for name, value in values.items() if finite(value)}
    floors = {name: each.floor for name in metrics(results) if (each := results[0].measured.get(name)) is not None}
    told |= {f"floor/{name}": floor for name, floor in floors.items()}
    if together := batches(results):
        told["batch/seconds"] = sum(batch.seconds for batch in together)
    for logger in loggers:
        logger.log_metrics(told, step=step)
        if hasattr(logger, "log_image"):
            for result in results:
                grid = pictures.grid(result.samples)
                logger.log_image(f"samples/{result.name}", [grid], step=step, caption=[_said(result)])


def log_review(logger: Logger, results: Sequence[Result]) -> None:
    """A finished evaluation: all of `log_results`, the user's own cell under plain names, and for W&B one table of the
    cells with thumbnails, each metric's curve against NFE, and the best cell in the summary."""
    log_results([logger], results)
    own = next((result for result in results if result.own), None)
    if own is not None:
        plain = {name: value for name, value in own.row.items() if type(value) in (int, float)}  # no switches
        logger.log_metrics(plain)
    if hasattr(logger, "log_table"):
        logger.experiment.log({"cells": _table(results), **_curves(results)})
        logger.experiment.summary.update(_best(results))


def _said(result: Result) -> str:
    """What a picture of a cell shows, and what the cell scores beside the floors."""
    finite_ones = ((name, each) for name, each in result.measured.items() if each.finite)
    scores = (f"{name} {show(each.value)} (floor {show(each.floor)})" for name, each in finite_ones)
    return "; ".join([caption(result.facts), *scores])


def _table(results: Sequence[Result]) -> Any:
    """One row a cell, with its first samples: a wandb.Table."""
    import wandb

    rows = [result.row for result in results]
    columns = list(rows[0])
    table = wandb.Table(columns=["samples", *columns])
    for result, row in zip(results, rows, strict=True):
        thumbnail = wandb.Image(pictures.grid(result.samples[:_THUMBNAILS]), caption=_said(result))
        table.add_data(thumbnail, *(row.get(name) for name in columns))
    return table


def _curves(results: Sequence[Result]) -> dict[str, Any]:
    """curve/<metric>: one line a (schedule, η), and the floor."""
    import wandb

    charts = {}
    rows = [result.facts for result in results]
    nfes = [row["nfe"] for row in rows]
    for metric in metrics(results):
        found = numbers(results, metric)
        lines: dict[str, list[tuple[int, float | None]]] = {}
        for family, indices in families(rows).items():
            for i in sorted(indices, key=lambda i: nfes[i]):
                if found[i] is not None and found[i].finite:
                    lines.setdefault(f"{family} η={rows[i]['eta']:g}", []).append((nfes[i], found[i].value))
        floor = next(each.floor for each in found if each is not None)
        lines["floor"] = [(nfe, floor) for nfe in (min(nfes), max(nfes))]
        xs, ys = zip(*(zip(*points, strict=True) for points in lines.values()), strict=True)
        charts[f"curve/{metric}"] = wandb.plot.line_series(
            xs=xs, ys=ys, keys=list(lines), title=f"{metric} against NFE", xname="NFE"
        )
    return charts


def _best(results: Sequence[Result]) -> dict[str, Any]:
    """The cell that comes nearest to the data by the most telling distance there is, and all its distances."""
    measured, i = metrics(results), nearest(results, telling(results))
    if i is None:
        return {}
    result = results[i]
    distances = {name: each.value for name, each in result.measured.items() if not each.metric.per_sample}
    return {
        "best/cell": result.name,
        "best/nfe": result.facts["nfe"],
        **{f"best/{name}": distances[name] for name in measured if name in distances},
    }

"""What the page's explorer shows: of every filmed cell its steps as pictures, and its numbers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torchvision.utils import make_grid

from skipstone.evaluation.evaluate import Result
from skipstone.report.embed import embed_samples
from skipstone.report.rows import Row, caption, families, finite, floor, metrics, show, stops, tau

Data = dict[str, Any]


def explorer_data(results: Sequence[Result]) -> Data | None:
    """What page.js reads, ready for JSON; None where no cell was filmed.

    cells, in the order of the filmed results: the place (family, stop and eta: the controls), the steps t → p, two
    sprites (x and x0; a row a step, a column a sample) and the numbers, in the order of `metrics`.
    """
    results = [result for result in results if result.film is not None]
    if not results:
        return None
    rows = [result.row for result in results]
    groups, measured = families(rows), metrics(rows)
    places = [_places(rows, metric) for metric in measured]
    cells: list[Data] = []
    for i, (result, row) in enumerate(zip(results, rows, strict=True)):
        family, indices = next((k, group) for k, group in enumerate(groups.values()) if i in group)
        cells.append(
            {
                "name": result.name,
                "own": result.own,
                "family": family,
                "stop": stops([rows[j] for j in indices])[indices.index(i)],
                "eta": row["eta"],
                "nfe": row["nfe"],
                "tau": ", ".join(tau(row)),
                "caption": caption(row),
                "steps": list(zip(result.film.t, result.film.p, strict=True)),
                "x": _sprite(result.film.x),
                "x0": _sprite(result.film.x0),
                "numbers": [_number(row, metric, place) for metric, place in zip(measured, places, strict=True)],
            }
        )
    samples, _, height, width = results[0].film.x.shape[1:]
    return {
        "families": list(groups), "metrics": measured, "cells": cells,
        "samples": samples, "height": height, "width": width,
    }  # fmt: skip


def _sprite(frames: Tensor) -> str:
    """uint8 [F, m, C, H, W] as one picture of F rows and m columns without gaps."""
    return embed_samples(make_grid(frames.flatten(0, 1), nrow=frames.shape[1], padding=0)).uri


def _number(row: Row, metric: str, place: Callable[[float | None], float | None]) -> Data:
    value, its_floor = row.get(metric), floor(row, metric)
    return {"value": show(value), "floor": show(its_floor), "at": place(value), "floor_at": place(its_floor)}


def _places(rows: Sequence[Row], metric: str) -> Callable[[float | None], float | None]:
    """From a value to its place on a line from 0 (the least of all values and floors) to 100 (the greatest).

    By asinh: logarithmic for large values, linear around zero, which a floor is at and unbiased distances fall below.
    """
    values = [value for row in rows for value in (row.get(metric), floor(row, metric)) if finite(value)]
    low, high = min(values), max(values)
    unit = -low if low < 0 else min((value for value in values if value > 0), default=1.0)

    def place(value: float | None) -> float | None:
        if not finite(value):
            return None
        start, end = math.asinh(low / unit), math.asinh(high / unit)
        return 50.0 if start == end else round(100 * (math.asinh(value / unit) - start) / (end - start), 1)

    return place

"""What the page's explorer shows: of every filmed cell its steps as pictures, and its numbers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from skipstone.evaluation.evaluate import Result
from skipstone.evaluation.metrics import Measured
from skipstone.report.embed import embed_samples
from skipstone.report.rows import (
    caption,
    families,
    finite,
    metrics,
    nearest,
    numbers,
    show,
    stops,
    tau,
    telling,
    told_apart,
)  # fmt: skip
from skipstone.report.tiles import tiled

Data = dict[str, Any]


def explorer_data(results: Sequence[Result]) -> Data | None:
    """What page.js reads, ready for JSON; None where no cell was filmed.

    told: what tells the families apart.  start: the cell that is shown first: the user's own, or else
    the best by a distance, which is named.
    cells, in the order of the filmed results: the place (family, stop and eta: the controls), the steps t → p, two
    sprites (x and x0; a row a step, a column a sample) and the numbers, in the order of `metrics`.
    """
    results = [result for result in results if result.film is not None]
    if not results:
        return None
    rows = [result.facts for result in results]
    groups, measured = families(rows), metrics(results)
    places = {metric: _places(numbers(results, metric)) for metric in measured}
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
                "numbers": [_number(result.measured.get(metric), place) for metric, place in places.items()],
            }
        )
    own = next((i for i, result in enumerate(results) if result.own), None)
    by = telling(results) if own is None else None
    start = (nearest(results, by) or 0) if own is None else own
    samples, _, height, width = results[0].film.x.shape[1:]
    return {
        "families": list(groups), "told": ", ".join(told_apart(rows)), "metrics": measured,
        "cells": cells, "start": start, "by": by,
        "samples": samples, "height": height, "width": width,
    }  # fmt: skip


def _sprite(frames: Tensor) -> str:
    """uint8 [F, m, C, H, W] as one picture of F rows and m columns without gaps."""
    return embed_samples(tiled(frames.flatten(0, 1), columns=frames.shape[1], gap=0)).uri


def _number(measured: Measured | None, place: Callable[[float | None], float | None]) -> Data:
    value, floor = (None, None) if measured is None else (measured.value, measured.floor)
    return {"value": show(value), "floor": show(floor), "at": place(value), "floor_at": place(floor)}


def _places(found: Sequence[Measured | None]) -> Callable[[float | None], float | None]:
    """From a value to its place on a line from 0 (the least of all values and floors) to 100 (the greatest).

    By asinh: logarithmic for large values, linear around zero, which a floor is at and unbiased distances fall below.
    """
    values = [value for each in found if each for value in (each.value, each.floor) if finite(value)]
    low, high = min(values), max(values)
    unit = -low if low < 0 else min((value for value in values if value > 0), default=1.0)

    def place(value: float | None) -> float | None:
        if not finite(value):
            return None
        start, end = math.asinh(low / unit), math.asinh(high / unit)
        return 50.0 if start == end else round(100 * (math.asinh(value / unit) - start) / (end - start), 1)

    return place

"""Curves: the metrics of cells against their network evaluations, a training, and encoding there and back."""

import csv
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from skipstone.evaluation.evaluate import Result
from skipstone.report.embed import Drawing
from skipstone.report.pictures import png, write
from skipstone.report.rows import families, finite, metrics, numbers

_MARKERS = "osD^vPX*"
_GRAY = "0.45"
_DPI = 144  # one and a half dots a pixel of a page, for sharp letters on most screens
_LOSSES = ("train/loss", "val/loss")
_TITLE = 36  # signs for which a panel has room
_NAMED = 16  # lines for which a legend has room
_PLAIN = FuncFormatter(lambda y, _: f"{float(f'{y:.2g}'):g}")


def save_curves(results: Sequence[Result], path: Path) -> None:
    """Write `draw_curves(results)` as a PNG."""
    write(draw_curves(results), path, _DPI)


def draw_curves(results: Sequence[Result]) -> Figure:
    """Metric against NFE on a log axis, one line an eta, the floor dashed; dotted, where known, the limit of n → ∞.

    Bars reach one spread up and down. One column a family (schedule), one row a metric, along which the axis is shared
    so that schedules compare. A single family has its metrics side by side.
    """
    rows = [result.facts for result in results]
    shown, columns = metrics(results), families(rows)
    if not shown:
        return _blank("no cell has a metric")
    alone = len(columns) == 1
    shape = (math.ceil(len(shown) / 3), min(len(shown), 3)) if alone else (len(shown), len(columns))
    figure = Figure(figsize=(max(4.6, 3.2 * shape[1]) + 0.6, 2.1 * shape[0] + 0.9), layout="constrained")
    grid = figure.subplots(*shape, sharex="all", sharey=False if alone else "row", squeeze=False)
    panels = [(metric, family) for metric in shown for family in columns]
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    etas, nfes = sorted({row["eta"] for row in rows}), {row["nfe"] for row in rows}
    for place, ((metric, family), axes) in enumerate(zip(panels, grid.flat[: len(panels)], strict=True)):
        _panel(axes, [results[i] for i in columns[family]], metric, etas)
        found = [each for each in numbers(results, metric) if each is not None]
        _scale(axes, [y for each in found for y in (each.value, each.limit, each.floor) if finite(y)])
        axes.set_xticks(*_ticks(nfes))
        if len(nfes) == 1:  # of a single point matplotlib finds the limits too late, and misplaces the frame
            axes.set_xlim(min(nfes) / 2, 2 * min(nfes))
        axes.xaxis.minorticks_off()
        axes.tick_params(labelbottom=place >= len(panels) - shape[1])
        if alone or place % len(columns) == 0:
            axes.set_ylabel(metric)
        if place < len(columns) and not alone:
            axes.set_title(textwrap.fill(family, _TITLE), fontsize="medium")
    where = f" (schedule {next(iter(columns))})" if alone else ""
    figure.supxlabel(textwrap.fill(f"NFE: network evaluations a sample{where}", 2 * _TITLE), fontsize="medium")
    lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    if "n → ∞" in lines:
        lines["n → ∞"] = Line2D([], [], color=_GRAY, linestyle=":")
    for label in ("floor", "n → ∞"):  # after the etas
        if label in lines:
            lines[label] = lines.pop(label)
    columns_of_legend = int(figure.get_figwidth() / 1.1)
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=columns_of_legend, frameon=False)
    return figure


def _blank(why: str) -> Figure:
    figure = Figure(figsize=(4.6, 1.2))
    figure.text(0.5, 0.5, why, ha="center", va="center", color=_GRAY)
    return figure


def _panel(axes: Axes, results: Sequence[Result], metric: str, etas: Sequence[float]) -> None:
    """One metric of one family."""
    colors = matplotlib.colormaps["plasma"]
    for k, eta in enumerate(etas):
        color = colors(0.1 + 0.6 * k / max(1, len(etas) - 1))  # neither end too pale nor too dark, on any ground
        here = sorted((result for result in results if result.facts["eta"] == eta), key=lambda r: r.facts["nfe"])
        found = [(result.facts["nfe"], result.measured[metric]) for result in here if metric in result.measured]
        points = [(nfe, each.value) for nfe, each in found if each.finite]
        limits = [(nfe, each.limit) for nfe, each in found if finite(each.limit)]
        marker = {"marker": _MARKERS[k % len(_MARKERS)], "markersize": 5}
        for drawn, style, label in ((points, marker, f"η = {eta:g}"), (limits, {"linestyle": ":"}, "n → ∞")):
            if drawn:
                axes.plot(*zip(*drawn, strict=True), color=color, label=label, linewidth=1.4, **style)
        spreads = [each.spread or 0.0 for _, each in found if each.finite]
        if any(spreads):
            axes.errorbar(*zip(*points, strict=True), spreads, fmt="none", ecolor=color, alpha=0.4, elinewidth=2.5)
    # a floor of 0 lies below every logarithm
    floors = {result.measured[metric].floor for result in results if metric in result.measured}
    for height in sorted({height for height in floors if finite(height)} - {0.0}):
        axes.axhline(height, color=_GRAY, linestyle="--", linewidth=1.1, label="floor")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Both axes logarithmic; linear around zero where values fall below it, as an unbiased distance can."""
    axes.set_xscale("log")
    lowest = min(values, default=1)
    if lowest < 0:
        linear = 10.0 ** math.ceil(math.log10(-lowest))
        near = max(values) < 30 * linear  # so few decades that there is room for more labels
        axes.set_yscale("symlog", linthresh=linear, subs=(2, 5) if near else None)
        axes.yaxis.set_major_formatter(_PLAIN)
        if near:
            axes.yaxis.set_minor_formatter(_PLAIN)
            axes.tick_params(axis="y", which="minor", labelsize="small")
        axes.margins(y=0.1)
    else:
        plain_log(axes, _span(values))


def _span(values: Sequence[float]) -> float:
    """The largest over the smallest of those that a logarithmic axis shows."""
    positive = [value for value in values if value > 0]
    return max(positive, default=1) / min(positive, default=1)


def plain_log(axes: Axes, span: float) -> None:
    """A logarithmic y axis with plain numbers; between the decades too, the more the less it spans.

    span: the largest value over the smallest; 1, a single value, gets a whole decade. A span in which there may be no
    number of one digit is left linear.
    """
    if 1 < span < 2:
        return
    labelled = "123456789" if 1 < span < 3 else "235" if span < 30 else ""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_PLAIN)
    if not labelled:
        axes.yaxis.set_minor_locator(NullLocator())  # so many ticks would be half of the time that a figure takes
        return
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: f"{y:.3g}" if f"{y:e}"[0] in labelled else ""))
    axes.tick_params(axis="y", which="minor", labelsize="small")


def _ticks(of: Iterable[int]) -> tuple[list[int], list[str]]:
    """The NFEs as ticks, but for those too near to their left neighbour to be read."""
    nfes = sorted(of)
    apart = (nfes[-1] / nfes[0]) ** 0.1
    kept: list[int] = []
    for nfe in nfes:
        if not kept or nfe >= apart * kept[-1]:
            kept.append(nfe)
    return kept, [str(nfe) for nfe in kept]


def read_losses(metrics_csv: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, loss) by name, from a model folder's metrics.csv; nothing where it is absent, damaged or has none."""
    try:
        with metrics_csv.open(newline="", errors="replace") as file:
            records = list(csv.DictReader(file))
    except (OSError, csv.Error):
        return {}
    found = {name: _column(records, name) for name in _LOSSES}
    return {name: points for name, points in found.items() if points}


def training_curve(metrics_csv: Path) -> Drawing | None:
    """The losses against the step, from a model folder's metrics.csv. None where it is absent or has no losses."""
    losses = read_losses(metrics_csv)
    styles = {"train/loss": {"color": "0.6", "linewidth": 1}, "val/loss": {"marker": "o", "markersize": 4}}
    return _losses([(name, points, styles[name]) for name, points in losses.items()], "loss")


def training_curves(losses: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> Drawing | None:
    """One loss of several models, by what tells them apart: the held-out one where all have it. None without any."""
    known = {label: found for label, found in losses.items() if found}
    name = next((name for name in reversed(_LOSSES) if all(name in found for found in known.values())), None)
    if not known or name is None:
        return None
    colors, last = matplotlib.colormaps["plasma"], max(1, len(known) - 1)
    lines = [  # with a space, because matplotlib leaves out of a legend what begins with _
        (f" {label}", found[name], {"color": colors(0.1 + 0.75 * k / last), "linewidth": 1.2})
        for k, (label, found) in enumerate(known.items())
    ]
    return _losses(lines, name)


def _losses(lines: Sequence[tuple[str, Sequence[tuple[int, float]], dict[str, Any]]], loss: str) -> Drawing | None:
    if not lines:
        return None
    figure = Figure(figsize=(6.4, 3.2 + 0.1 * min(len(lines), _NAMED)), layout="constrained")
    axes = figure.subplots()
    for label, points, style in lines:
        axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(xlabel="step", ylabel=f"{loss}: mean squared error of eps")
    plain_log(axes, _span([value for _, points, _ in lines for _, value in points]))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) <= _NAMED:
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return Drawing.of(png(figure, _DPI))


def _column(records: Sequence[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    """(step, value) of the lines that have both; a line that was cut off has not."""
    points = []
    for record in records:
        try:
            point = int(record["step"]), float(record[name])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(point[1]):
            points.append(point)
    return sorted(points)


def save_reconstruction(rows: Sequence[dict[str, Any]], published: Mapping[int, float], path: Path) -> None:
    """The error of encoding and decoding against NFE, both axes logarithmic.

    published: a paper's errors by NFE, which are drawn beside ours.
    """
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for method, label in (("encode", "encode, decode"), ("exact", "invert, decode"), ("explicit", "encode, undo")):
        points = sorted((row["nfe"], row["mse"]) for row in rows if row["method"] == method)
        if points:
            axes.loglog(*zip(*points, strict=True), "o-", label=label)
    axes.loglog(published.keys(), published.values(), "s--", color="gray", label="DDIM paper, CIFAR-10")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_PLAIN)
        axis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="NFE (evaluations, each way)", ylabel="mean squared error, pixels in [0, 1]")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    write(figure, path, _DPI)

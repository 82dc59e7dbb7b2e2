"""The pictures of the paper's tables: samples by η and NFE, the best cell, and curves."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from skipstone.evaluation.metrics import SOLVER_RMSE
from skipstone.report.curves import plain_log
from skipstone.report.pictures import write
from skipstone.report.rows import Row, finite
from skipstone.report.tiles import to_pil
from skipstone.studies.paper import published
from skipstone.studies.paper.select import fd_names, floor, part, table_1

_SHOWN = ("0", "1", "σ̂")  # rows of Table 1 in the picture of samples
_SAMPLES = 10
_TILE, _GAP, _LEFT, _BAND = 64, 3, 92, 14  # pixels: an image's side at least, between images, captions, between etas
_GRAY = "#767676"  # can be read on white and on black, as the ground is transparent
_MARKERS = "osD^vP"


def save_samples(rows: Sequence[Row], samples: Mapping[str, Tensor], path: Path) -> None:
    """A line a cell: NFE growing downwards, one band an η; column k is sample k. Nothing where no cell was sampled."""
    bands = [[row for row in rows if row["part"] == f"table 1, η = {eta}" and row["cell"] in samples] for eta in _SHOWN]
    bands = [band for band in bands if band]
    if not bands:
        return
    count = min(_SAMPLES, *(len(samples[row["cell"]]) for band in bands for row in band))
    side = samples[bands[0][0]["cell"]].shape[-1]
    side *= max(1, round(_TILE / side))
    pitch = side + _GAP
    height = sum(len(band) for band in bands) * pitch + _BAND * (len(bands) - 1)
    sheet = Image.new("RGBA", (_LEFT + count * pitch - _GAP, height - _GAP))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 14)
    y = 0
    for band in bands:
        for row in band:
            draw.multiline_text(
                (0, y + side // 2), f"{published.said(row['row'])}\nNFE {row['nfe']}", _GRAY, font, anchor="lm"
            )
            for k, image in enumerate(samples[row["cell"]][:count]):
                tile = to_pil(image).resize((side, side), Image.Resampling.NEAREST)
                sheet.paste(tile, (_LEFT + k * pitch, y))
            y += pitch
        y += _BAND
    sheet.save(path, optimize=True)


def save_curves(rows: Sequence[Row], path: Path) -> None:
    """Three panels against NFE: the distance by η; the distance, and solver_rmse, by solver and schedule at η = 0.

    Nothing where no cell has a distance.
    """
    of_etas = sorted(table_1(rows), key=lambda row: list(published.TABLE_1).index(row["row"]))
    if not fd_names(of_etas):
        return
    (name, *_) = fd_names(of_etas)
    at_0 = [row for row in of_etas if row["row"] == "0"]
    of_solvers = [*at_0, *part(rows, "schedules"), *part(rows, "solvers")]
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _panel(left, "Table 1", of_etas, name, lambda row: published.said(row["row"]))
    _panel(middle, "η = 0", of_solvers, name, lambda row: f"{row['solver']}, {row['schedule']}")
    _panel(right, "η = 0", of_solvers, SOLVER_RMSE.name, lambda row: f"{row['solver']}, {row['schedule']}")
    if right.get_legend():
        right.get_legend().remove()  # it is that of the panel beside it
    write(figure, path, dpi=110)


def _panel(axes: Axes, title: str, rows: Sequence[Row], metric: str, label: Callable[[Row], str]) -> None:
    """One metric against NFE, both axes logarithmic, a line a label, the floor dashed; the legend above."""
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if finite(row.get(metric)):
            series.setdefault(label(row), []).append((row["nfe"], row[metric]))
    for k, (name, points) in enumerate(series.items()):
        axes.plot(*zip(*sorted(points), strict=True), marker=_MARKERS[k % 6], markersize=4, linewidth=1.3, label=name)
    for height in {height for row in rows if finite(height := floor(row, metric)) and height > 0}:
        axes.axhline(height, color="0.45", linestyle="--", linewidth=1, label="floor")
    axes.set(xscale="log", xlabel=f"NFE ({title})", ylabel=metric)
    plain_log(axes, span=10)
    nfes = sorted({nfe for points in series.values() for nfe, _ in points})
    kept = [nfe for nfe, last in zip(nfes, [0, *nfes], strict=False) if nfe > 1.1 * last]
    axes.set_xticks(kept, [str(nfe) for nfe in kept])
    axes.xaxis.minorticks_off()
    if series:
        axes.legend(fontsize="small", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)

"""Samples as pictures: grids, single images, animations. Files are whole whenever they are there."""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from skipstone.report.rows import printable
from skipstone.report.tiles import tiled, to_pil
from skipstone.store import files

GRID_IMAGES = 64
_SMALLEST_GRID = 400  # pixels a side: grids of small images are enlarged by a whole factor


def grid(samples: Tensor, columns: int | None = None) -> Tensor:
    """The first 64 samples, or all of them in so many columns, as one picture. uint8 [N, C, H, W] → [3, H', W']."""
    shown = samples if columns else samples[:GRID_IMAGES]
    return tiled(shown, columns, gap=2)


def save_grid(samples: Tensor, path: Path, columns: int | None = None) -> None:
    """Write `grid(samples)` as a PNG, enlarged without smoothing until it can be looked at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(to_pil(_enlarged(grid(samples, columns))), path)


def save_image(image: Tensor, path: Path) -> None:
    """Write one image, uint8 [C, H, W], as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil(image).save(path)


def save_animation(steps: Sequence[tuple[Tensor, Tensor]], path: Path) -> None:
    """Write a GIF of a trajectory: each step's x_t above its predicted x0, uint8 [N, C, H, W] each; the last stays."""
    frames = [to_pil(_enlarged(grid(torch.cat(pair), columns=len(pair[0])))) for pair in steps]
    durations = [80] * (len(frames) - 1) + [2000]  # milliseconds
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    files.write(path, content.getbuffer())


def write(picture: Image.Image | Figure, path: Path, dpi: int = 100) -> None:
    """Write a picture, or a figure at `dpi` dots an inch, as a PNG."""
    files.write(path, png(picture, dpi))


def png(picture: Image.Image | Figure, dpi: int = 100) -> bytes:
    """What `write` writes."""
    content = io.BytesIO()
    if isinstance(picture, Figure):
        for text in picture.findobj(Text):  # what a user named is no formula, and may hold what no font has
            text.set_parse_math(False)
            text.set_text(printable(text.get_text()))
        picture.set_dpi(dpi)
        with warnings.catch_warnings():  # a box stands for a letter that no font has
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
            FigureCanvasAgg(picture).print_png(content)  # savefig would draw all twice, first for the layout alone
    else:
        picture.save(content, "PNG")
    return content.getvalue()


def _enlarged(picture: Tensor) -> Tensor:
    factor = max(1, math.ceil(_SMALLEST_GRID / picture.shape[-1]))
    return picture.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)

"""The contact sheet: the cells' first samples side by side. They start from the same noise, so they compare."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from skipstone.evaluation.evaluate import Result
from skipstone.report.pictures import write
from skipstone.report.rows import families, printable, stops, tau
from skipstone.report.tiles import to_pil

_TILE = 64  # pixels: small images are enlarged by a whole factor to about this
_GAP, _BLOCK_GAP, _LEFT, _TOP = 3, 22, 80, 56  # pixels between tiles, between etas, and for the captions
_SIGN, _LINE = 10, 19  # pixels: of a sign of the font at most, as a rule; and between lines
_GRAY = "#767676"  # of the captions: can be read on white and on black, as the ground is transparent


def save_sheet(results: Sequence[Result], path: Path) -> None:
    """Write `draw_sheet(results)` as a PNG."""
    write(draw_sheet(results), path)


def draw_sheet(results: Sequence[Result]) -> Image.Image:
    """One band a family (schedule), NFE growing downwards, the etas beside each other: RGBA on transparent ground.

    Column k below an eta is sample k, from the same start noise everywhere. Where the grid has no cell, the sheet has
    a hole.
    """
    etas = sorted({result.facts["eta"] for result in results})
    n = min(8, max(3, 18 // len(etas)), *(len(result.samples) for result in results))
    groups = families([result.facts for result in results])
    bands = [_band(family, [results[i] for i in indices], etas, n) for family, indices in groups.items()]
    sheet = Image.new("RGBA", (max(band.width for band in bands), sum(band.height for band in bands)))
    y = 0
    for band in bands:
        sheet.paste(band, (0, y))
        y += band.height
    return sheet


def _band(family: str, results: Sequence[Result], etas: Sequence[float], n: int) -> Image.Image:
    """The cells of one family: a row a tau, a block of n samples an eta."""
    side = results[0].samples.shape[-1]
    side *= max(1, round(_TILE / side))
    pitch = side + _GAP
    block = n * pitch + _BLOCK_GAP
    places = stops([result.facts for result in results])
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 15)
    small = font.font_variant(size=13)

    width = _LEFT + len(etas) * block - _BLOCK_GAP
    lines = textwrap.wrap(printable(family), width // _SIGN)
    top = _TOP + _LINE * (len(lines) - 1)
    band = Image.new("RGBA", (width, top + (max(places) + 1) * pitch))
    draw = ImageDraw.Draw(band)
    draw.multiline_text((0, 8), "\n".join(lines), _GRAY, font)
    for k, eta in enumerate(etas):
        draw.text((_LEFT + k * block, top - 20), f"η = {eta:g}", _GRAY, small)
    for place, row in {place: result.facts for place, result in zip(places, results, strict=True)}.items():
        said = "\n".join([f"NFE {row['nfe']}", *tau(row)])
        draw.multiline_text((0, top + place * pitch + side // 2), said, _GRAY, small, anchor="lm")
    for place, result in zip(places, results, strict=True):
        left = _LEFT + etas.index(result.facts["eta"]) * block
        for k, image in enumerate(result.samples[:n]):
            tile = to_pil(image).resize((side, side), Image.Resampling.NEAREST)
            band.paste(tile, (left + k * pitch, top + place * pitch))
    return band

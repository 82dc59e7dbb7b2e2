"""Pictures as data URIs, so that a page is one file."""

import base64
import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from skipstone.report.tiles import to_pil

_QUALITY = 88  # of WebP: small images are enlarged by the page, which shows what is lost
_QUALITY_OF_LARGE = 60
_LARGE = 300_000  # pixels of a picture of many samples


class Embedded(NamedTuple):
    """A picture as a data URI and its size in pixels, which spares a page from moving while it loads."""

    uri: str
    width: int
    height: int


class Drawing(NamedTuple):
    """A drawing as a file and as a page shows it, for one that more than one run tells of."""

    png: bytes
    embedded: Embedded

    @classmethod
    def of(cls, png: bytes) -> "Drawing":
        """The content of a PNG file."""
        return cls(png, embed_png(png))


def embed_samples(picture: Tensor) -> Embedded:
    """uint8 [C, H, W] as lossy WebP: noise does not compress, and a page holds a lot of it."""
    large = picture.shape[1] * picture.shape[2] > _LARGE
    return _embed(to_pil(picture), quality=_QUALITY_OF_LARGE if large else _QUALITY, method=4)


def embed_file(path: Path) -> Embedded:
    """`embed_png` of a file."""
    return embed_png(path.read_bytes())


def embed_png(content: bytes) -> Embedded:
    """A drawing that was written as PNG, as lossless WebP of the same pixels."""
    with Image.open(io.BytesIO(content)) as image:
        return _embed(image, lossless=True, method=1)  # drawings hardly become smaller by more effort


def _embed(image: Image.Image, **options: bool | int) -> Embedded:
    written = io.BytesIO()
    image.save(written, "WEBP", **options)
    uri = "data:image/webp;base64," + base64.b64encode(written.getvalue()).decode()
    return Embedded(uri, image.width, image.height)

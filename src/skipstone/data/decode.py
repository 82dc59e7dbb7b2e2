"""Image files as uint8 pixels of one form: one tensor for all of them, filled by a few threads."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from skipstone import progress
from skipstone.data.scan import shown

_THREADS = 8  # more than a few wait for each other
_CHUNK = 64  # files a thread reads at a time
_DEPTHS = (8, 10, 12, 14, 16)  # the bits that cameras, scanners and microscopes give
_STRIP = 2**20  # pixels that are laid on white at a time
_SMALL = 2**20  # pixels of a file that is decoded without asking for room
_AT_ONCE = 2**27  # pixels that may be in memory at a time, unless one file alone has more: 0.5 GB
_DRAFTED = 89_478_485  # pixels above which a JPEG is decoded at a smaller scale: where Pillow warns
_LIMIT = 2 * _DRAFTED  # pixels above which a file is refused, by Pillow and so by us


def decode(paths: Sequence[str], image_size: int, channels: int) -> tuple[Tensor, int | None]:
    """The files as uint8 [N, channels, image_size, image_size], and the bits that the 16-bit ones among them use.

    Many devices write 10, 12 or 14 bits into 16. So the range of 16-bit files is 2^bits, with the smallest bits that
    hold every value of all of them: 8, 10, 12, 14 or 16; None where no file has 16 bits. Raises OSError, naming the
    files, for what cannot be read.
    """
    images = np.empty((len(paths), channels, image_size, image_size), np.uint8)
    # The largest of the upper eight bits of each 16-bit file, −1 of any other. Only files of less than 16 bits are
    # decoded twice, because what they use is known at the end.
    largest = np.full(len(paths), -1)

    def read(i: int, bits: int) -> None:
        pixels, largest[i] = _read_one(paths[i], image_size, channels, bits, room)
        images[i] = pixels.transpose(2, 0, 1)

    room = _Room(_AT_ONCE)
    _for_each(partial(read, bits=16), range(len(paths)), paths)
    deep = np.flatnonzero(largest >= 0)
    if not len(deep):
        return torch.from_numpy(images), None
    bits = next(bits for bits in _DEPTHS if largest.max() < 1 << bits - 8)
    if bits < 16:
        _for_each(partial(read, bits=bits), deep.tolist(), paths)
    return torch.from_numpy(images), bits


def _for_each(read: Callable[[int], None], which: Sequence[int], paths: Sequence[str]) -> None:
    """Call `read` for the number of each file. Raises one OSError for all that fail."""
    failed: dict[str, Exception] = {}
    stopped, done = threading.Event(), count(1)

    def some(chunk: Sequence[int]) -> None:
        for i in chunk:
            if stopped.is_set():
                return
            try:
                read(i)
            except Exception as error:  # whatever a decoder makes of a damaged file
                failed[paths[i]] = error
            show(next(done), len(which))

    # Pillow decodes outside the interpreter's lock, so threads speed this up where images are large.
    threads = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    with progress.shown("reading images", "files") as show, warnings.catch_warnings(), threads as pool:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # they name no file; what cannot be read is refused below
        try:
            list(pool.map(some, [which[i : i + _CHUNK] for i in range(0, len(which), _CHUNK)]))
        finally:
            stopped.set()  # an interrupt need not wait for the chunks that were begun
    if failed:
        first, *others = sorted(failed)
        names = ", ".join(shown(path) for path in others[:5]) + ", ..." * (len(others) > 5)
        more = f" {len(others)} more cannot be read either: {names}" if others else ""
        raise OSError(
            f"{shown(first)} cannot be read as an image ({_why(failed[first])}): repair or remove it.{more}"
        ) from failed[first]


def _why(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {_LIMIT:,} pixels"
    return getattr(error, "strerror", None) or shown(" ".join(str(error).split())) or type(error).__name__


class _Room:
    """Memory for so many pixels, which the threads share: large images wait for each other."""

    def __init__(self, pixels: int) -> None:
        self.all = self.free = pixels
        self.changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        pixels = 0 if pixels <= _SMALL else min(pixels, self.all)
        if not pixels:
            yield
            return
        with self.changed:
            self.changed.wait_for(lambda: self.free >= pixels)
            self.free -= pixels
        try:
            yield
        finally:
            with self.changed:
                self.free += pixels
                self.changed.notify_all()


def _read_one(path: str, image_size: int, channels: int, bits: int, room: _Room) -> tuple[np.ndarray, int]:
    """One file as uint8 [image_size, image_size, channels], and the largest of the upper 8 of its 16 bits, or −1.

    Transparency is laid on white. bits: those that 16-bit pixels use.
    """
    with Image.open(path) as image, room.taken(image.width * image.height):
        if image.width * image.height > _DRAFTED:
            image.draft(image.mode, (8 * image_size, 8 * image_size))  # does nothing where it is no JPEG
        image, largest = _eight_bits(image, path, bits)
        if image.has_transparency_data:
            image = _on_white(image)
        mode = "L" if channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image_size, image_size, channels), largest


def _eight_bits(image: Image.Image, path: str, bits: int) -> tuple[Image.Image, int]:
    """The image upright, with 8 bits per pixel and channel, and the largest of the upper 8 of its 16 bits, or −1."""
    # of colours Pillow has no 16 bits: it keeps the upper 8
    deep_colours = image.mode in ("RGB", "RGBA") and any(";16" in str(tile[3]) for tile in image.tile)
    kind = image.format
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("I", "F") and kind != "PPM":
        raise ValueError("32-bit pixels have no agreed range; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow's own conversion would clip
        pixels = np.asarray(image)
        return Image.fromarray((pixels >> bits - 8).astype(np.uint8)), int(pixels.max()) >> 8
    if not deep_colours:
        return image, -1
    largest = max(high for _, high in image.getextrema()[:3])
    return (image if bits == 16 else _deep_colours(path, kind, bits)), largest


def _deep_colours(path: str, kind: str | None, bits: int) -> Image.Image:
    """A PNG of 16-bit colours of which `bits` are used."""
    if kind != "PNG":
        raise ValueError(f"its 16-bit colours use {bits} bits, which is read from PNG alone; convert it to 8 bits")
    from torchvision.io import ImageReadMode, decode_image

    encoded = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.uint8)
    pixels = decode_image(encoded, ImageReadMode.UNCHANGED, apply_exif_orientation=True).numpy()
    alpha = 1 - len(pixels) % 2  # of two or four channels the last is transparency, which uses all bits
    shifts = np.array([bits - 8] * (len(pixels) - alpha) + [8] * alpha, dtype=np.uint16)
    pixels = (pixels >> shifts[:, None, None]).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(pixels)


def _on_white(image: Image.Image) -> Image.Image:
    """A transparent image as RGB on white, in strips, because each step makes a copy."""
    whole = Image.new("RGB", image.size)
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        whole.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return whole

"""Any folder of images: flat, a sub-folder a class, or split into train/ and test/.

Small files are decoded by their thousands a second and no faster, for the interpreter's lock is between them; so what
was decoded once is kept, by the names, sizes and times of its files.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from skipstone.data.images import ImageSet, check, split
from skipstone.store.files import replacing

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_HELD_OUT_NAMES = ("test", "val", "valid", "validation")
_THREADS = 8  # more than a few wait for each other
_CHUNK = 64  # files a thread reads at a time

log = logging.getLogger(__name__)


def folder(
    name: str, root: str | None, image_size: int, channels: int, held_out: float, flip: bool, cache: str | None = None
) -> ImageSet:
    """Every image below `root`, in whatever mode and size, as uint8 [N, channels, image_size, image_size].

    The shorter side is resized, the centre cropped. Where root has train/ and test/ (or val/), those are the parts;
    elsewhere the fraction `held_out` of the images is held out by a fixed shuffle. Images have labels where each lies
    in a sub-folder, one a class, and there are several. cache: a folder in which the decoded images are kept for the
    next time. Raises FileNotFoundError for a missing or empty folder and
    OSError, naming the file, for an image that cannot be read.
    """
    check(image_size, channels)
    if root is None:
        raise ValueError("dataset=folder needs dataset.root=<folder of images>.")
    top = Path(root).expanduser()
    if not top.is_dir():
        raise FileNotFoundError(f"dataset.root={root} is not a folder: give the folder that holds the images.")
    tests = [top / part for part in _HELD_OUT_NAMES if (top / part).is_dir()]
    if (top / "train").is_dir() and tests:
        parts = {part: _files(part) for part in (top / "train", tests[0])}
        train, held = (_read(files, image_size, channels, cache) for files in parts.values())
        train_labels, held_labels = _labels(parts)
        return ImageSet(name, train, held, flip, train_labels=train_labels, held_out_labels=held_labels)
    if isinstance(held_out, (bool, str)) or not 0 < held_out < 1:
        raise ValueError(f"dataset.held_out={held_out} must lie between 0 and 1: the fraction of images held out.")
    files = _files(top)
    if len(files) < 3:
        raise ValueError(f"dataset.root={root} holds {len(files)} images; at least 3 are needed, 2 of them held out.")
    images = _read(files, image_size, channels, cache)
    (labels,) = _labels({top: files})
    train, held, train_labels, held_labels = split(images, max(2, round(held_out * len(images))), labels)
    return ImageSet(name, train, held, flip, train_labels=train_labels, held_out_labels=held_labels)


def _files(top: Path) -> list[Path]:
    """The image files below `top`, sorted, so that the order does not depend on the file system."""
    paths = (Path(folder, name) for folder, _, names in os.walk(top) for name in names)
    files = sorted(path for path in paths if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise FileNotFoundError(f"dataset.root: {top} holds no images ({', '.join(sorted(_SUFFIXES))}).")
    return files


def _labels(parts: dict[Path, list[Path]]) -> list[Tensor | None]:
    """The classes of each part's files, which are the names of the sub-folders of its top, or None for every part."""
    names = [[path.relative_to(top).parts[:-1][:1] for path in files] for top, files in parts.items()]
    classes = sorted(set().union(*names))
    if len(classes) < 2 or () in classes:  # a file outside all sub-folders has no class
        return [None] * len(parts)
    number = {name: i for i, name in enumerate(classes)}
    return [torch.tensor([number[name] for name in part]) for part in names]


def _read(files: Sequence[Path], image_size: int, channels: int, cache: str | None) -> Tensor:
    """The files as uint8 [N, channels, image_size, image_size], decoded now or earlier."""
    if cache is None:
        return _decode(files, image_size, channels)
    digest = hashlib.sha256(repr((PIL.__version__, image_size, channels)).encode())
    for path in files:
        status = path.stat()
        digest.update(f"{path.absolute()} {status.st_size} {status.st_mtime_ns}\n".encode())
    kept = Path(cache) / f"folder-{digest.hexdigest()[:16]}.safetensors"
    try:
        return load_file(kept)["images"]
    except (OSError, SafetensorError, KeyError):
        images = _decode(files, image_size, channels)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as temporary:
            temporary.write_bytes(save({"images": images}))
    except OSError as error:
        log.warning("the decoded images could not be kept for the next time: %s", error)
    return images


def _decode(files: Sequence[Path], image_size: int, channels: int) -> Tensor:
    def some(chunk: Sequence[Path]) -> np.ndarray:
        return np.stack([_read_one(path, image_size, channels) for path in chunk])

    chunks = [files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK)]
    # Pillow decodes outside the interpreter's lock, so threads speed this up where images are large.
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        arrays = list(pool.map(some, chunks))
    return torch.from_numpy(np.concatenate(arrays)).permute(0, 3, 1, 2).contiguous()


def _read_one(path: Path, image_size: int, channels: int) -> np.ndarray:
    """One file as uint8 [image_size, image_size, channels]; transparency is laid on white."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("I", "F"):
                raise ValueError("32-bit pixels have no agreed range; convert it to 8 or 16 bits")
            if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's own conversion would clip
                image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if channels == 1 else "RGB")
            image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.LANCZOS)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f"{path} cannot be read as an image ({error}): repair or remove it.") from error
    return np.asarray(image).reshape(image_size, image_size, channels)

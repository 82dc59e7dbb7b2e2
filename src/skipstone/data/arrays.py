"""Files that a user brings to a model: arrays of numbers, images to change, and masks of what stays."""

import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from skipstone.data.decode import decode
from skipstone.data.images import to_unit
from skipstone.data.scan import scan, shown

ARRAYS = (".npy", ".npz", ".safetensors")
BRIGHTEST = 1.5  # samples go a little beyond 1; what goes further has another scale


def read_array(key: str, path: str | Path) -> Tensor:
    """The one array in a file. key: the setting that names it. Raises ValueError for anything else."""
    where, path = f"{key}={shown(path)}", Path(path)
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{where} is not there: name a file that is.")
    if path.suffix not in ARRAYS:
        raise ValueError(f"{where} is no file of an array: name one that ends in {', '.join(ARRAYS)}.")
    try:
        if path.suffix == ".safetensors":
            found = list(load_file(path).values())
        else:
            content = np.load(path, allow_pickle=False)
            arrays = [content] if isinstance(content, np.ndarray) else [content[name] for name in content.files]
            found = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    except (OSError, ValueError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, SafetensorError) as error:
        raise ValueError(f"{where} cannot be read as numbers: it is damaged, or holds something else.") from error
    if len(found) != 1:
        raise ValueError(f"{where} holds {len(found)} arrays: save the one that is meant in a file of its own.")
    return found[0]


def read_start(path: str | Path, n: int, shape: tuple[int, ...]) -> Tensor:
    """Noise or latents of the user's own. Raises ValueError unless they are finite floats [n, *shape]."""
    start = read_array("start", path)
    if tuple(start.shape) != (n, *shape):
        many = tuple(start.shape[1:]) == tuple(shape)
        remedy = f"set n={len(start)}" if many and len(start) else f"it must be {[n, *shape]} for n={n} and this model"
        raise ValueError(f"start={shown(path)} has the shape {list(start.shape)}: {remedy}.")
    _require_finite("start", path, start)
    return start


def read_images(path: str | Path, shape: tuple[int, int, int]) -> Tensor:
    """Images to change: float32 [m, *shape] in the [−1, 1] scale.

    path: an image file, a folder of them, or an array of bytes or of floats in [−1, 1]. Files are brought to the shape.
    Raises OSError and ValueError for what is no image.
    """
    where = f"image={shown(path)}"
    if Path(path).suffix in ARRAYS:
        images = read_array("image", path)
        if images.ndim != 4 or tuple(images.shape[1:]) != tuple(shape) or not len(images):
            raise ValueError(
                f"{where} has the shape {list(images.shape)}: it must be [n, {', '.join(map(str, shape))}]."
            )
        if images.dtype == torch.uint8:
            return to_unit(images)
        _require_finite("image", path, images)
        if float(images.abs().max()) > BRIGHTEST:
            raise ValueError(f"{where} has values up to {float(images.abs().max()):g}: scale them to [-1, 1].")
        return images.float()
    if os.path.isdir(path):
        files = [file.path for file in scan(os.fspath(path)).files]
        if not files:
            raise FileNotFoundError(f"{where} holds no images: name a folder that does.")
    elif os.path.lexists(path):
        files = [os.fspath(path)]
    else:
        raise FileNotFoundError(f"{where} is not there: name an image, a folder of images, or an array.")
    return to_unit(decode(files, shape[1], shape[0])[0])


def read_mask(path: str | Path, images: Tensor) -> Tensor:
    """Where images [m, C, H, W] are known: bool [m, C, H, W]; white in a picture, true or 1 in an array.

    Raises ValueError for another size, for other values, and where all is known or nothing.
    """
    where, size = f"mask={shown(path)}", list(images.shape[-2:])
    if Path(path).suffix in ARRAYS:
        mask = read_array("mask", path)
        if mask.is_complex() or not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(f"{where} has other values than true and false, or 1 and 0: true is what stays.")
        mask = mask.bool()
    else:
        try:
            with Image.open(path) as picture:
                mask = torch.from_numpy(np.array(picture.convert("L"))) > 127
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where} is not there: name a picture or an array.") from error
        except Exception as error:  # whatever a decoder makes of a damaged file
            raise ValueError(f"{where} cannot be read as a picture: repair it, or name another.") from error
    try:
        fitting = mask.expand(images.shape) if list(mask.shape[-2:]) == size and mask.ndim in (2, 4) else None
    except RuntimeError:
        fitting = None
    if fitting is None:
        raise ValueError(
            f"{where} has the shape {list(mask.shape)}: it must be {size}, one mask for all images, or "
            f"{list(images.shape)}, one for each."
        )
    if bool(mask.all()) or not bool(mask.any()):
        what = "every pixel is known, so nothing is painted in" if bool(mask.all()) else "no pixel is known"
        raise ValueError(f"{where}: {what}; white or true is what stays, the rest is new.")
    return fitting


def _require_finite(key: str, path: str | Path, x: Tensor) -> None:
    if not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        raise ValueError(f"{key}={shown(path)} holds {kind}, and must hold floats: save it as float32.")
    if not bool(x.isfinite().all()):
        raise ValueError(f"{key}={shown(path)} has values that are not finite (NaN or infinite): correct them.")

"""Samples as one picture. As torchvision has it, whose import takes longer than torch's: most commands do without."""

import math

from PIL import Image
from torch import Tensor

_GREY = 96  # of the gaps


def tiled(images: Tensor, columns: int | None = None, gap: int = 1) -> Tensor:
    """Row by row, with grey gaps of so many pixels between and around; one image alone has none.

    images: uint8 [N, C, H, W], of one channel or three.  columns: at most; a square where None.
    Returns uint8 [3, H', W'].
    """
    n, _, height, width = images.shape
    if n == 1:
        return images[0].expand(3, -1, -1)
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = math.ceil(n / columns)
    picture = images.new_full((3, rows * (height + gap) + gap, columns * (width + gap) + gap), _GREY)
    for k, image in enumerate(images):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        picture[:, top : top + height, left : left + width] = image
    return picture


def to_pil(picture: Tensor) -> Image.Image:
    """uint8 [C, H, W] of one channel or three, as PIL's."""
    return Image.fromarray((picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)).contiguous().cpu().numpy())

"""Hand-written kernels for a GPU. Each has a plain form in torch's own words elsewhere, which is what a CPU runs."""

from functools import cache
from importlib.util import find_spec

from torch import Tensor

LARGEST = 128  # side of the pictures that the norm can hold


@cache
def there() -> bool:
    """Whether Triton, which torch brings along for CUDA, is installed."""
    return find_spec("triton") is not None


def usable(x: Tensor) -> bool:
    """Whether the kernels run where this tensor lies."""
    return x.is_cuda and there()

"""Hand-written kernels for a GPU. Each has a plain form in torch's own words elsewhere, which is what a CPU runs."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

HELD = 32768  # numbers that a program of the norm can hold: all pixels of a group of channels, as powers of two
_OLDEST = (9, 0)  # compute capability; on GPUs before Hopper nothing was measured


@cache
def there() -> bool:
    """Whether this is a machine whose GPU the kernels are for, with Triton, which torch brings along for CUDA."""
    cuda = torch.cuda.is_available() and torch.version.hip is None
    return cuda and find_spec("triton") is not None and torch.cuda.get_device_capability() >= _OLDEST


def usable(x: Tensor) -> bool:
    """Whether the kernels run where this tensor lies."""
    return x.is_cuda and there()


class _Compilation:
    """Kernels that are being compiled, each once, on all cores."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        self._running: dict[Any, Future] = {}

    def add(self, kernel: Any, grid: tuple[int, ...], arguments: tuple, constants: dict[str, Any]) -> None:
        told = tuple((a.dtype, a.data_ptr() % 16) if isinstance(a, Tensor) else a for a in arguments)
        key = (kernel, told, tuple(constants.items()))
        if key not in self._running:
            self._running[key] = self._pool.submit(self._compile, kernel, grid, arguments, constants)

    def _compile(self, kernel: Any, grid: tuple[int, ...], arguments: tuple, constants: dict[str, Any]) -> None:
        with torch.cuda.device(self._device):
            kernel.warmup(*arguments, grid=grid, **constants)

    def wait(self) -> None:
        for running in self._running.values():
            running.result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


_compilation: _Compilation | None = None


@contextmanager
def compiled_ahead(device: torch.device) -> Iterator[None]:
    """Inside, kernels are not run but compiled, all at the same time; what they would have written is undefined.

    One after the other, those of a large network take minutes; compiled once, they are kept on disk.
    """
    global _compilation
    if device.type != "cuda":  # Triton's interpreter, which does not compile
        yield
        return
    _compilation = _Compilation(device)
    try:
        yield
        _compilation.wait()
    finally:
        _compilation.close()
        _compilation = None


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a Triton kernel, or only compile it: see `compiled_ahead`."""
    if _compilation is not None:
        _compilation.add(kernel, grid, arguments, constants)
        return
    device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # Triton launches on the current one
        kernel[grid](*arguments, **constants)

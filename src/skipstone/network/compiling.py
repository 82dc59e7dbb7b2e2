"""Compiled code: where it is kept between runs, and the lines that say that making it takes a while."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
_done: set[str] = set()  # what this process has compiled


def keep_under(outputs: str | Path) -> None:
    """Let torch and Triton keep what they compile below `<outputs>/cache`, unless the user has said where."""
    for variable, folder in FOLDERS.items():
        os.environ.setdefault(variable, str(Path(outputs, "cache", folder).absolute()))


@contextmanager
def announced(what: str, trainer: dict[str, Any]) -> Iterator[bool]:
    """Say before and after that `what` is compiled, if these resolved settings do so and this process has not yet.

    Otherwise whoever waits for it might think that it hangs. Gives whether it is so.
    """
    if what in _done or not (trainer["compile"] or trainer["kernels"]):
        yield False
        return
    kept = os.path.commonpath([os.environ.get(variable, str(Path.home())) for variable in FOLDERS])
    log.info("compiling %s: about a minute the first time, seconds when it is found again in %s", what, kept)
    began = time.perf_counter()
    yield True
    log.info("compiled %s in %.0f s", what, time.perf_counter() - began)
    _done.add(what)

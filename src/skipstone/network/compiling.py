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
    """Let torch and Triton keep what they compile below `<outputs>/cache`, unless the user has named a folder."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    for variable, folder in FOLDERS.items():
        # torch writes its own default there, sometimes as soon as it is imported
        if os.environ.get(variable) in (None, default_cache_dir()):
            os.environ[variable] = str(Path(outputs, "cache", folder).absolute())


@contextmanager
def announced(what: str, trainer: dict[str, Any]) -> Iterator[bool]:
    """Say before and after that `what` is compiled, if these resolved settings do so and this process has not yet.

    Otherwise whoever waits for it might think that it hangs. Gives whether it is so.
    """
    if what in _done or not (trainer["compile"] or trainer["kernels"]):
        yield False
        return
    folders = [Path(os.environ[variable]) for variable in FOLDERS if variable in os.environ]
    together = len({folder.parent for folder in folders}) == 1
    kept = " and ".join(map(str, [folders[0].parent] if together else folders)) or "torch's own cache"
    log.info("compiling %s: about a minute the first time, seconds when it is found again in %s", what, kept)
    began = time.perf_counter()
    yield True
    log.info("compiled %s in %.0f s", what, time.perf_counter() - began)
    _done.add(what)

"""Trainings on several devices of this host: each rank is a process, and the command is their parent.

The parent trains nothing. It passes signals on to the ranks, waits until they have saved, and tells in one sentence of
a rank that failed.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.popen_spawn_posix import Popen
from types import FrameType
from typing import Any

_LOOK = 1.0  # seconds between a rank's looks for its parent
_PATIENCE = 25.0  # seconds that ranks have to save and end once they are told
_OTHER = {signal.SIGINT: signal.SIGTERM, signal.SIGTERM: signal.SIGINT}


@contextmanager
def parent_of(launcher: Any) -> Iterator[None]:
    """Around a fit whose launcher starts the ranks. A launcher of None starts none, and nothing is changed.

    Raises KeyboardInterrupt once the ranks have ended because they were told to, ChildProcessError for a rank that was
    killed, and ValueError with the sentence of a rank that refused to go on.
    """
    if launcher is None:
        yield
        return
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    told, others = [], set(multiprocessing.active_children())

    def pass_on(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if not launcher.procs:
            # The ranks are still being started, and have nothing to save. One that Ctrl-C ended no longer reads what
            # this process is writing to it, and without an exception that write would never end.
            _end_half_started(frame)
            raise KeyboardInterrupt
        for rank in launcher.procs:
            if rank.is_alive():
                # A terminal's Ctrl-C reaches the ranks, too. They take the same signal again for "do not wait", so
                # they get the other one. Ranks that wait for each other for ever hear nothing: the second signal ends
                # them, and so does time.
                os.kill(rank.pid, _OTHER[number] if len(told) == 1 else signal.SIGKILL)
        if len(told) == 1:
            threading.Thread(target=end_late, daemon=True).start()

    def end_late() -> None:
        time.sleep(_PATIENCE)
        for rank in launcher.procs:
            rank.kill()

    before = {number: signal.signal(number, pass_on) for number in _OTHER}
    try:
        yield
    except (ProcessExitedException, ProcessRaisedException) as error:
        if told:
            raise KeyboardInterrupt from error
        raise _cause(launcher.procs, error) from error
    finally:
        if not launcher.procs:
            for rank in set(multiprocessing.active_children()) - others:
                rank.kill()
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        raise KeyboardInterrupt


def _end_half_started(frame: FrameType | None) -> None:
    """End the process that is being started where a signal came: until it has read its work nobody else knows it."""
    for caller, _ in traceback.walk_stack(frame):
        if caller.f_code is Popen._launch.__code__:
            pid = getattr(caller.f_locals["self"], "pid", None)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)


def _cause(ranks: list[multiprocessing.Process], error: Exception) -> Exception:
    """What befell the ranks. Where one was killed the others fail, too, in words of their connection to it."""
    killed = [i for i, rank in enumerate(ranks) if rank.exitcode is not None and rank.exitcode == -signal.SIGKILL]
    if killed:
        return ChildProcessError(
            f"the process of device {killed[0]} was killed, perhaps because memory ran out, and the training ended: "
            "the same command goes on from the last checkpoint."
        )
    kind, _, words = str(error).strip().splitlines()[-1].partition(": ")
    return {"ValueError": ValueError, "OSError": OSError}[kind](words) if kind in ("ValueError", "OSError") else error


@cache
def end_with_parent() -> None:
    """Have SIGTERM sent to this process once the process that started it is gone; nothing in a process of its own.

    A parent that was killed tells its processes nothing.
    """
    if multiprocessing.parent_process() is None:
        return
    parent = os.getppid()  # a server of forks may stand between this process and who asked for it

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def quiet() -> None:
    """Leave warnings to Hydra's log: Lightning would print them a second time, with tips and commonplaces."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
    for message in ("The '.*_dataloader' does not have many workers", "`isinstance.treespec, LeafSpec.`"):
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", "Experiment logs directory")  # metrics.csv is ours to continue
    warnings.filterwarnings(
        "ignore", "You're resuming from a checkpoint that ended before the epoch"
    )  # StepSampler can

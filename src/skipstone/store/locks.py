"""One process at a time, also among hosts that share a file system."""

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import LeaseCompromise, LeaseSettingsMismatch, SoftFileLease, Timeout

log = logging.getLogger(__name__)

# Seconds without a sign of life after which a holder on another host counts as dead; SKIPSTONE_LEASE in the environment
# sets others. All processes that share a folder must agree on it.
LEASE = 60.0
_LOOK = 1.0  # seconds between a waiting process's looks
_REMIND = 600.0  # seconds between its words


def lease() -> float:
    """The lease, in seconds. Raises ValueError if SKIPSTONE_LEASE is no such number."""
    given = os.environ.get("SKIPSTONE_LEASE", LEASE)
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds < math.inf:
        raise ValueError(f"SKIPSTONE_LEASE={given} is not allowed: it is a number of seconds, of at least 1.")
    return seconds


@contextmanager
def held(path: Path, work: str, began: Callable[[str], Path | None] | None = None, wait: bool = True) -> Iterator[str]:
    """Hold the lock file `path`; wait while another process holds it, and say which. Gives a name to this claim.

    work:   what the holder does, for people
    began:  for a claim, a file that tells by its time since when it holds, where there is one
    wait:   false raises ValueError where another process holds it

    A claim's name is eight hexadecimal digits, which no other hold has.

    The lock is a file that the holder touches every third of the lease and removes at the end. A holder that died on
    this host is noticed at once, by its process id; one on another host once it has not touched the file for the
    lease, by the clock of the one who waits. A holder that was suspended for so long is told at its next touch. Until
    then it does not know: what it writes must lie where nobody else writes (claims). It raises OSError then, and
    whenever something fails while the lock is no longer its own.
    """

    def lose(_: LeaseCompromise) -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # this is the heartbeat's thread

    seconds = lease()
    lock = SoftFileLease(path, lease_duration=seconds, on_compromise=lose, poll_interval=_LOOK, thread_local=False)
    try:
        _acquire(lock, work, began, wait)
    except LeaseSettingsMismatch as error:
        raise ValueError(f"{error}: give SKIPSTONE_LEASE the same value for all processes.") from error
    try:
        yield _claim(lock.token)
    except (Exception, KeyboardInterrupt) as error:
        if lock.owner is not None and lock.owner.token == lock.token:
            raise
        raise OSError(
            f"{work} was taken over by another process, because this one gave no sign of life for {seconds:.0f} "
            f"seconds, or {path} was removed: the same command goes on with what is there."
        ) from error
    finally:
        lock.release()


def _claim(token: str) -> str:
    return token[:8]


def _acquire(lock: SoftFileLease, work: str, began: Callable[[str], Path | None] | None, wait: bool) -> None:
    try:
        lock.acquire(timeout=0)
        return
    except Timeout:
        if not wait:
            raise ValueError(
                f"{work} is not allowed while another process works there ({_holder(lock, began)}): wait for its end."
            ) from None
    while True:
        log.info("waiting for %s by another process: %s", work, _holder(lock, began))
        try:
            lock.acquire(timeout=_REMIND)
        except Timeout:
            continue
        log.info("done waiting for %s", work)
        return


def _holder(lock: SoftFileLease, began: Callable[[str], Path | None] | None) -> str:
    """Who holds the lock: host, process id, since when; as far as it can be read."""
    owner = lock.owner
    if owner is None:
        return "it is just beginning or ending"
    who = f"host {owner.hostname}, process {owner.pid}"
    file = began(_claim(owner.token)) if began is not None and owner.token else None
    if file is None:
        return who
    try:
        return f"{who}, since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(file.stat().st_mtime))}"
    except OSError:
        return who


def holder(path: Path) -> int | None:
    """The id of the process that holds the lock file `path`; None if none does, or it cannot be read just now."""
    owner = SoftFileLease(path, lease_duration=lease()).owner
    return None if owner is None else owner.pid

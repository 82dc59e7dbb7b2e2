"""One process at a time, also among hosts that share a file system."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import LeaseCompromise, SoftFileLease, Timeout

log = logging.getLogger(__name__)

# Seconds without a sign of life after which a holder on another host counts as dead. All hosts must agree on it.
LEASE = 60.0
_LOOK = 1.0  # seconds between a waiting process's looks
_REMIND = 600.0  # seconds between its words


@contextmanager
def held(path: Path, work: str, began: Path | None = None) -> Iterator[None]:
    """Hold the lock file `path`; wait while another process holds it, and say which.

    work: what the holder does, for people.  began: a file that tells by its time since when, where it is there: what
    the holder before left of it is touched, and the holder may write it.

    The lock is a file that the holder touches every third of LEASE and removes at the end. A holder that died on this
    host is noticed at once, by its process id; one on another host once it has not touched the file for LEASE
    seconds, by the clock of the one who waits. A holder that was suspended for so long stops: it raises OSError.
    """
    lost = threading.Event()

    def lose(_: LeaseCompromise) -> None:
        lost.set()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # this is the heartbeat's thread

    lock = SoftFileLease(path, lease_duration=LEASE, on_compromise=lose, poll_interval=_LOOK, thread_local=False)
    _acquire(lock, work, began)
    try:
        if began is not None and began.exists():
            began.touch()
        yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
        raise OSError(
            f"{work} was taken over by another process, for this one gave no sign of life for {LEASE:.0f} seconds: "
            "the same command waits for it."
        ) from None
    finally:
        lock.release()


def _acquire(lock: SoftFileLease, work: str, began: Path | None) -> None:
    try:
        lock.acquire(timeout=0)
        return
    except Timeout:
        pass
    while True:
        log.info("waiting for %s by another process: %s", work, _holder(lock, began))
        try:
            lock.acquire(timeout=_REMIND)
        except Timeout:
            continue
        log.info("done waiting for %s", work)
        return


def _holder(lock: SoftFileLease, began: Path | None) -> str:
    """Who holds the lock: host, process id, since when; as far as it can be read."""
    owner = lock.owner
    who = "it is just beginning or ending" if owner is None else f"host {owner.hostname}, process {owner.pid}"
    if began is None:
        return who
    try:
        return f"{who}, since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(began.stat().st_mtime))}"
    except OSError:
        return who


def holder(path: Path) -> int | None:
    """The id of the process that holds the lock file `path`; None if none does, or it cannot be read just now."""
    owner = SoftFileLease(path, lease_duration=LEASE).owner
    return None if owner is None else owner.pid

"""Whose folder a training writes in, and how a finished one takes its place.

    <key>/                 a finished model
    <key>.<claim>/         a training that is under way, or was cut off
    <key>.fresh.<claim>/   the same, of a model that shall replace the finished one
    <key>.old.<claim>/     a model that is being replaced

A claim is one hold of the model's lock. A process that was suspended for longer than its lease may wake up at any
moment, also between a check and a write. So it has a folder that nobody else writes in: its successor takes that folder
over by renaming it, and what the sleeper writes then finds no folder. A finished model stands where no training writes.
"""

import errno
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DONE = "DONE"  # the file that is written last
_FRESH, _OLD = ".fresh", ".old"
_CLAIM = "[0-9a-f]" * 8


def name_of(folder: Path) -> str:
    """Of the training in `folder`, whoever goes on with it: <key> or <key>.fresh."""
    return re.sub(rf"\.{_CLAIM}$", "", folder.name)


def key_of(folder: Path) -> str:
    """Of the model that is trained in `folder`, whether for the first time or anew."""
    return name_of(folder).removesuffix(_FRESH)


def is_final(folder: Path) -> bool:
    """Whether the folder of a finished model is in its place."""
    return folder.suffix not in (_FRESH, _OLD) and name_of(folder) == folder.name


def finished_at(folder: Path) -> int | None:
    """When the model in it was finished, in nanoseconds since the epoch; None if it is not."""
    try:
        return (folder / DONE).stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


def unsettled(final: Path) -> bool:
    """Whether a process was killed, or is just now, between finishing a model and having it in its place."""
    return any(final.parent.glob(f"{final.name}.*/{DONE}"))


def settle(final: Path, claim: str) -> None:
    """Finish what a killed process began, as the holder of the model's lock; name its folders as they are named here.

    In older stores a training lies in <key>/ or <key>.fresh/, and a model that is being replaced in <key>.old/.
    """
    for suffix in ("", _FRESH, _OLD):
        older = final.with_name(f"{final.name}{suffix}")
        if older.is_dir() and (suffix or finished_at(older) is None):
            older.rename(f"{older}.{claim}")
    for suffix in (_FRESH, ""):
        for folder in _left(final, suffix):
            if finished_at(folder) is not None:
                with suppress(FileNotFoundError):  # its owner woke up and published it
                    publish(folder, final, finished_at(final) if suffix else None)
    for old in _left(final, _OLD):
        if finished_at(old) is not None and not final.exists():
            old.rename(final)
        else:
            _remove(old)


def take(final: Path, claim: str, fresh: bool) -> Path:
    """A folder of this claim's own, with what a training that was cut off left, if one did. Settle comes first."""
    if final.exists() and not final.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
    suffix = _FRESH if fresh else ""
    own = final.with_name(f"{final.name}{suffix}.{claim}")
    for folder in sorted(_left(final, suffix), key=_written, reverse=True):
        with suppress(FileNotFoundError):  # published, too
            folder.rename(own)
            return own
    own.mkdir()
    return own


def publish(own: Path, final: Path, before: int | None) -> None:
    """Give the finished model in `own` its place by one rename, which fails where another stands.

    before: when the model that it shall replace was finished; None: there is none. Any other model that stands there
    was finished by another process meanwhile. That one stays, and `own` goes.
    """
    try:
        own.rename(final)
    except FileNotFoundError:  # `own` is another process's by now
        raise
    except OSError as error:
        if finished_at(final) is None:
            raise OSError(error.errno, error.strerror, str(final)) from error
        _replace(own, final, before)
    # what was cut off of this model is wanted no more
    for folder in (*_left(final), *(_left(final, _FRESH) if name_of(own) != final.name else ())):
        _remove(folder)


def _replace(own: Path, final: Path, before: int | None) -> None:
    if finished_at(final) == before:
        old = final.with_name(f"{final.name}{_OLD}{own.suffix}")
        with _no_interrupt():
            final.rename(old)
            try:
                if finished_at(old) == before:  # a moment ago another process may have put its own there
                    own.rename(final)
            finally:
                with suppress(OSError):  # back again, unless a model stands there
                    old.rename(final)
        _remove(old)
    _remove(own)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Let the signal by which a lock's heartbeat says that it is lost (locks) wait until the model is in its place."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _left(final: Path, suffix: str = "") -> list[Path]:
    """The folders of claims on this model."""
    return sorted(final.parent.glob(f"{final.name}{suffix}.{_CLAIM}"))


def _written(folder: Path) -> float:
    """When something was last put in the folder."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(folder: Path) -> None:
    (folder / DONE).unlink(missing_ok=True)  # the first to go, because half a model must not be taken for one
    shutil.rmtree(folder, ignore_errors=True)

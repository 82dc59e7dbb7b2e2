"""Every image file below a folder, whatever lies beside them: links, pipes, and what desktops leave."""

import os
import stat
from collections import Counter, deque
from dataclasses import dataclass, field

# fmt: off
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
# Images, but in formats that Pillow does not read everywhere
UNREADABLE = {
    ".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".heic", ".heif", ".j2k", ".jp2", ".jxl", ".nef",
    ".psd", ".tga",
}
# fmt: on

_DESKTOP_NAMES = {".ds_store", "thumbs.db", "desktop.ini", "__macosx", "@eadir"}
_OF_THE_DESKTOP = "what desktops leave, such as ._*, .DS_Store, Thumbs.db, __MACOSX and hidden folders"


@dataclass(frozen=True, slots=True)
class File:
    """An image file.

    path:    as it is opened.
    names:   the folders between the top and the file, and its own name.
    real:    its path without links.
    linked:  whether a link below the top leads to it.
    status:  what the file system records of it.
    """

    path: str
    names: tuple[str, ...]
    real: str
    linked: bool
    status: os.stat_result


@dataclass(frozen=True)
class Found:
    """files: the images below a folder, by name.  folders: all folders below it.  passed: the others, by kind."""

    files: list[File] = field(default_factory=list)
    folders: set[tuple[str, ...]] = field(default_factory=set)
    passed: Counter[str] = field(default_factory=Counter)


def scan(top: str) -> Found:
    """Look through a folder. Only regular files are images: whoever opens a pipe waits for its other end.

    Links to folders are followed. A folder is looked through once by its own path, and once by a link, the one nearest
    the top: this ends however the links lie. Raises OSError that names what cannot be looked into.
    """
    found, followed = Found(), set()
    waiting = deque([((), top, os.path.realpath(top), False)])
    while waiting:
        names, path, real, linked = waiting.popleft()
        if linked and real in followed:
            continue
        if linked:
            followed.add(real)
        found.folders.add(names)
        for entry in _entries(path):
            inner, by_link = (*names, entry.name), entry.is_symlink()
            target = os.path.realpath(entry.path) if by_link else os.path.join(real, entry.name)
            status = _status(entry)
            if entry.name.startswith("._") or entry.name.lower() in _DESKTOP_NAMES:
                found.passed[_OF_THE_DESKTOP] += 1
            elif status is None:
                found.passed["links that lead nowhere"] += 1
            elif not stat.S_ISDIR(status.st_mode):
                _take(found, File(entry.path, inner, target, linked or by_link, status))
            elif entry.name.startswith("."):
                found.passed[_OF_THE_DESKTOP] += 1
            elif by_link and os.path.commonpath([target, real]) == target:
                found.passed["links that lead in a circle"] += 1
            else:
                waiting.append((inner, entry.path, target, linked or by_link))
    found.files.sort(key=lambda file: file.names)
    return found


def _take(found: Found, file: File) -> None:
    suffix = os.path.splitext(file.names[-1])[1].lower()
    if not stat.S_ISREG(file.status.st_mode):
        found.passed["pipes, sockets or devices"] += 1
    elif suffix in SUFFIXES:
        found.files.append(file)
    else:
        found.passed[suffix or "without a suffix"] += 1


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise OSError(
            f"{shown(path)} cannot be listed ({error.strerror}): get access to it, or move it out of the data."
        ) from error


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What the file system records; None for a link to nothing, or to itself."""
    try:
        return entry.stat()
    except OSError as error:
        if entry.is_symlink():
            return None
        raise OSError(
            f"{shown(entry.path)} cannot be looked up ({error.strerror}): get access to it, or move it out of the data."
        ) from error


def shown(text: str | os.PathLike[str]) -> str:
    """A path or a name as it can be printed: not every one is UTF-8, or one line."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in os.fspath(text))

"""Every image file below a folder, whatever lies beside them: links, pipes, and what desktops leave."""

import os
import stat
from collections import Counter, defaultdict, deque
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
    links:   how many links below the top lead to it by this path.
    status:  what the file system records of it.
    """

    path: str
    names: tuple[str, ...]
    real: str
    links: int
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
    passed: dict[str, set[str]] = defaultdict(set)  # by real path: a folder may be looked through twice
    waiting = deque([((), top, os.path.realpath(top), 0)])
    while waiting:
        names, path, real, links = waiting.popleft()
        if links and real in followed:
            continue
        if links:
            followed.add(real)
        found.folders.add(names)
        for entry in _entries(path):
            inner, itself, by_link = (*names, entry.name), os.path.join(real, entry.name), entry.is_symlink()
            target = os.path.realpath(entry.path) if by_link else itself
            status = _status(entry)
            if entry.name.startswith("._") or entry.name.lower() in _DESKTOP_NAMES:
                passed[_OF_THE_DESKTOP].add(itself)
            elif status is None:
                passed["links that lead nowhere"].add(itself)
            elif not stat.S_ISDIR(status.st_mode):
                kind = _kind(entry.name, status)
                if kind is None:
                    found.files.append(File(entry.path, inner, target, links + by_link, status))
                else:
                    passed[kind].add(itself)
            elif entry.name.startswith("."):
                passed[_OF_THE_DESKTOP].add(itself)
            elif by_link and os.path.commonpath([target, real]) == target:
                passed["links that lead in a circle"].add(itself)
            else:
                waiting.append((inner, entry.path, target, links + by_link))
    found.files.sort(key=lambda file: file.names)
    found.passed.update({kind: len(paths) for kind, paths in passed.items()})
    return found


def _kind(name: str, status: os.stat_result) -> str | None:
    """What a file is that is passed over; None for an image."""
    suffix = os.path.splitext(name)[1].lower()
    if not stat.S_ISREG(status.st_mode):
        return "pipes, sockets or devices"
    return None if suffix in SUFFIXES else suffix or "without a suffix"


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

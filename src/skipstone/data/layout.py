"""Which of a folder's images form which part, and which class each is of, by the names of the folders they lie in."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from skipstone.data.scan import File, Found

# The two parts of a data set, the first choice first
_TRAIN = ("train", "training")
_HELD_OUT = ("test", "val", "valid", "validation", "testing")
_WORD = re.compile("training|train|testing|test|validation|valid|val")
# Where the first lie beside the second, the second are no images but something drawn over them
_IMAGES = {"images", "image", "imgs", "img", "data"}
_DRAWN_OVER = {"masks", "mask", "labels", "label", "annotations", "ground_truth", "gt", "segmentations", "trimaps"}

_Filed = tuple[File, tuple[str, ...]]  # a file, and the folders that may be its class


@dataclass(frozen=True)
class Part:
    """Some of the images. name: of the folder they lie in, below the top.  classes: a name per file, or None."""

    name: str
    files: list[File]
    classes: list[str] | None


def arrange(found: Found) -> tuple[list[Part], Counter[str]]:
    """The parts of a data set, [train, held out] or [all of it], and what was passed over, by kind.

    Parts are two folders whose names differ in one word (train and test, Training and Validation, train2017 and
    val2017), at the top or in every class. Any other folder between the top and a file is a class: the first one that
    not all files share. Each real file is taken once, and what is held out is not trained on.
    """
    parts, passed = _parts(found), Counter(found.passed)
    passed["outside these folders"] = len(found.files) - sum(map(len, parts.values()))
    for name, filed in parts.items():
        parts[name] = _once(filed)
        passed["further paths to the same file"] += len(filed) - len(parts[name])
    if len(parts) == 2:
        train, held_out = parts
        held = {file.real for file, _ in parts[held_out]}
        both = [file.real in held for file, _ in parts[train]]
        parts[train] = [filed for filed, in_both in zip(parts[train], both, strict=True) if not in_both]
        passed[f"in {train}/ and in {held_out}/ too"] = sum(both)
    return _classify(parts, passed), +passed


def _parts(found: Found) -> dict[str, list[_Filed]]:
    """The files of each part by the part's name, train first; all of them under "" where there are no two parts."""
    inside: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for folder in found.folders:
        inside[folder[:-1]].append(folder[-1] if folder else "")
    shared = _shared([file.names[:-1] for file in found.files])
    for level in range(len(shared) + 1):
        if names := _pair(inside[shared[:level]]):
            tops = [(*shared[:level], name) for name in names]
            return {"/".join(top): [(file, file.names[level + 1 : -1]) for file in _in(found, top)] for top in tops}
    n = len(shared) + 1
    pairs = {top: _pair(inside[top]) for top in sorted({file.names[:n] for file in found.files if len(file.names) > n})}
    if not pairs or None in pairs.values():
        return {"": [(file, file.names[:-1]) for file in found.files]}
    train, held_out = next(iter(pairs.values()))
    both: tuple[list[_Filed], list[_Filed]] = ([], [])
    for file in found.files:
        names = pairs.get(file.names[:n], ())
        if file.names[n : n + 1] and file.names[n] in names:
            both[names.index(file.names[n])].append((file, (file.names[n - 1], *file.names[n + 1 : -1])))
    return {f"*/{train}": both[0], f"*/{held_out}": both[1]}


def _shared(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The outer folders that all have in common."""
    levels = takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))
    return tuple(names[0] for names in levels)


def _in(found: Found, top: tuple[str, ...]) -> list[File]:
    return [file for file in found.files if file.names[: len(top)] == top]


def _pair(names: list[str]) -> tuple[str, str] | None:
    """The folder to train on and the one held out, where just two fit together; plain names before all others."""
    fitting: dict[tuple[str, str], tuple[list, list]] = {}
    for name in names:
        lower = name.lower()
        if word := _WORD.search(lower):
            both = fitting.setdefault((lower[: word.start()], lower[word.end() :]), ([], []))
            of = both[0 if word[0] in _TRAIN else 1]
            of.append((name != lower, (_TRAIN + _HELD_OUT).index(word[0]), name))
    pairs = {
        rest: (min(train)[-1], min(held_out)[-1]) for rest, (train, held_out) in fitting.items() if train and held_out
    }
    return pairs.get(("", "")) or (pairs.popitem()[1] if len(pairs) == 1 else None)


def _once(filed: list[_Filed]) -> list[_Filed]:
    """Each real file once, by the path with the fewest links."""
    first: dict[str, File] = {}
    for file, _ in sorted(filed, key=lambda one: one[0].links):
        first.setdefault(file.real, file)
    return [one for one in filed if first[one[0].real] is one[0]]


def _classify(parts: dict[str, list[_Filed]], passed: Counter[str]) -> list[Part]:
    """Classes where every file of every part has one of several."""
    outermost = {folders[0].lower() if folders else "" for filed in parts.values() for _, folders in filed}
    if outermost & _IMAGES and outermost & _DRAWN_OVER and outermost <= _IMAGES | _DRAWN_OVER:
        for name, filed in parts.items():
            parts[name] = [one for one in filed if one[1][0].lower() in _IMAGES]
            passed["masks or labels beside the images"] += len(filed) - len(parts[name])
    folders = [folders for filed in parts.values() for _, folders in filed]
    shared = len(_shared(folders))
    has_classes = bool(folders) and min(map(len, folders)) > shared
    return [
        Part(name, [file for file, _ in filed], [folders[shared] for _, folders in filed] if has_classes else None)
        for name, filed in parts.items()
    ]


def mistakable(parts: list[Part]) -> list[str]:
    """Classes with the name of a part."""
    classes = {name for part in parts for name in part.classes or ()}
    return sorted(name for name in classes if name.lower() in _TRAIN + _HELD_OUT)

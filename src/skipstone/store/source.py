"""The source code of what is not ours: an edited network is another network, although its configuration is the same."""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))
_OURS = Path(__file__).resolve().parents[1]


def classes_of(net: nn.Module) -> list[type]:
    """The classes of all its modules, and those that they derive from."""
    return [base for module in net.modules() for base in type(module).__mro__]


def fingerprint(things: Iterable[Any]) -> str | None:
    """A hash of the files that define these classes and functions, and of the user's own files that those import.

    None where there are none. Our own code, Python's and installed packages are left out: a key must not change with
    every release.
    """
    names = [thing.__module__ for thing in things if getattr(thing, "__module__", None) != "__main__"]
    sources: dict[str, bytes] = {}
    while names:
        name = names.pop()
        path = _own_file(sys.modules.get(name))
        if path is not None and name not in sources:
            sources[name] = path.read_bytes()
            names += _imported(sources[name], sys.modules[name])
    if not sources:
        return None
    return hashlib.sha256(b"\0".join(sources[name] for name in sorted(sources))).hexdigest()[:16]


def _own_file(module: ModuleType | None) -> Path | None:
    """The file of a module of the user's own; None for every other module."""
    file = getattr(module, "__file__", None)
    path = Path(file).resolve() if file else None
    if path is None or any(path.is_relative_to(folder) for folder in (*_INSTALLED, _OURS)):
        return None
    return path


def _imported(source: bytes, module: ModuleType) -> Iterator[str]:
    """The names of the modules that this source imports, and of what may be one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.__package__ or None
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)

"""The words of a command line, made ready for Hydra: a path is taken as it is typed, with ~ as the home folder.

In Hydra's grammar brackets, commas, quotes and other signs have meanings of their own. Folders are named without it.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException

from skipstone.commands.schema import CONF, dotted

MULTIRUN = ("-m", "--multirun")

# Every setting that names a file or a folder
PATHS = (
    "paths.outputs", "dataset.root", "dataset.cache", "solver.path", "metrics.inception", "trainer.default_root_dir",
    "run", "a", "b", "like", "cells", "baseline", "out", "tried", "resume",
    "start", "image", "mask", "hydra.run.dir", "hydra.sweep.dir",
)  # fmt: skip

_PLAIN = re.compile(r"[A-Za-z0-9_./:+-]*")  # needs no quotes
_ELEMENT = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\s*(?=,|$)|[^,]+""")  # of a sweep


def readable(words: Sequence[str]) -> list[str]:
    """The words with every path as Hydra's grammar reads it.

    With -m a comma separates the values of a sweep, and a path with a comma in it needs quotes; without -m it needs
    none. What the grammar reads as another thing than text (5, [a], null) stays that, and is refused later. Raises
    ValueError for what Hydra takes and a command does not survive: ~key, its way to delete one, @ without a name, and
    a list of options for a group, of which it makes a mixture, or nothing.
    """
    swept = any(word in (*MULTIRUN, "hydra.mode=MULTIRUN") for word in words)
    return [_readable(word, swept) for word in words]


def typed() -> set[str]:
    """Every key that the words of this command set, those in braces among them; none where no command runs."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    overrides = OverridesParser.create().parse_overrides(list(words))
    return {key for each in overrides for key in dotted({each.key_or_group: each.value()})}


def _readable(word: str, swept: bool) -> str:
    if word.startswith("~"):
        raise ValueError(f"{word} is not allowed: every setting is needed, give it another value or leave it out.")
    key, given, value = word.partition("=")
    name = key.lstrip("+")
    if given and (not name or name.startswith("@")):
        raise ValueError(f"{word} is not allowed: a setting has a name before the {name[:1] or '='}.")
    group = name.startswith("hydra/") or (name.isidentifier() and (CONF / name).is_dir())
    if given and group and value.startswith("["):
        raise ValueError(f"{word} is not allowed: name one option of {name}; a sweep over several is -m {name}=a,b.")
    if not given or name not in PATHS:
        return word
    single = not swept or name.startswith("hydra.") or not isinstance(_parsed(value), (str, list))
    parts = [value] if single else [found[0].strip() for found in _ELEMENT.finditer(value)]
    return f"{key}={','.join(map(_path, parts))}"


def _path(typed: str) -> str:
    value = _parsed(typed)
    if isinstance(value, list) and not any(isinstance(each, QuotedString) for each in value):
        value = typed
    if not isinstance(value, str):
        return typed
    path = os.path.expanduser(value if _in_quotes(typed) else typed)
    return path if _PLAIN.fullmatch(path) and isinstance(_parsed(path), str) else quoted(path)


def _parsed(typed: str) -> str | list | None:
    """What Hydra's grammar makes of a value: a list of what stands between commas, None for anything but that or text.

    The text itself where it makes nothing of it.
    """
    try:
        value = OverridesParser.create().parse_override(f"path={typed}").value()
    except HydraException:
        return typed
    if isinstance(value, ChoiceSweep) and value.simple_form:
        return value.list
    return value if isinstance(value, str) else None


def _in_quotes(typed: str) -> bool:
    return typed[:1] in ("'", '"') and _parsed(typed) != typed and isinstance(_parsed(typed), str)


def quoted(text: str) -> str:
    """As a value in Hydra's grammar, whatever is in it."""
    return QuotedString(text, Quote.single).with_quotes()


def unquoted(value: str) -> str:
    """The text of a path as `readable` leaves it."""
    return _parsed(value) if _in_quotes(value) else value


def home_path(text: str) -> Path:
    """A path as argparse's type, with ~ as the home folder."""
    return Path(text).expanduser()

"""The keys of a command: those of its files in conf/, and what the functions take that are built from them.

Any other key would be taken and ignored, so it is refused, wherever it comes from: a +key, a group in braces, a file.
"""

import difflib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from skipstone.commands.trainer import REFUSED

_INSIDE = Path(__file__).parents[1] / "conf"  # of an installed package; a checkout has it at its root
CONF = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[3] / "conf"

_OPEN = ("metrics.own", "evaluation.schedules")  # a user names what is in them
_CALLED = {"training": "skipstone.training.recipe.Recipe", "trainer": "lightning.Trainer"}  # groups without _target_
_HYDRA = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}  # Hydra's own, beside a _target_
# Arguments that the command passes itself, and those that it refuses: a setting of that name would do nothing
_PASSED = {
    "metrics": {"images", "n", "outputs", "device"},
    "logger": {"job_type", "run_id", "group", "directory", "config"},
    "trainer": set(REFUSED),
}


def refusal(key: str, value: Any, allowed: str) -> ValueError:
    """The error of a setting that has another value than is allowed."""
    return ValueError(f"{key}={repr(value) if isinstance(value, str) else value} is not allowed: it is {allowed}.")


def dotted(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key in nested settings, by its full name."""
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")


def known_keys() -> set[str]:
    """Every key of train.py that a file in conf/ sets, with whatever options; without Hydra's, and what it builds."""
    keys = set(_keys(CONF / "train.yaml", ""))
    for path in CONF.glob("*/*.yaml"):
        keys.update(_keys(path, f"{path.parent.name}."))
    foreign = re.compile(r"hydra\b|(.*\.)?_")
    return {key for key in keys if not foreign.match(key)}


def require_known(config: DictConfig, command: str, words: Sequence[str], choices: Mapping[str, str]) -> None:
    """Raise ValueError for a key of the configuration that nothing reads, naming the nearest that are read.

    command: the name of its file in conf/.  words: overrides as they were typed.  choices: the option of each group;
    of a group that is not in it, every option's keys are known.
    """
    known = keys_of(command, tuple(sorted(choices.items())))
    for key, beside in _unread(OmegaConf.to_container(config, resolve=False), "", known):
        word = _word(key, words)
        if "." not in key and (CONF / key).is_dir():
            raise ValueError(f"{word} is not allowed: this command has no group {key}; `--cfg job` shows every key.")
        raise ValueError(unknown(key, word, {*known, *beside}, choices))


def unknown(key: str, word: str, known: Collection[str], choices: Mapping[str, str]) -> str:
    """The sentence on a key that there is not, with the options that have it, or else the nearest that there are.

    word: where it stands.  choices: the option of each group.
    """
    group, _, name = key.partition(".")
    having = [path.stem for path in sorted(CONF.glob(f"{group}/*.yaml")) if key in _keys(path, f"{group}.")]
    if having and group in known and choices.get(group) not in having:
        lacks = f"{group}={choices[group]} has no {name}" if group in choices else f"not every {group} has {name}"
        return f"there is no key {key} (in {word}): {lacks}; these do: {', '.join(having)}."
    other = [each for each in known if not key.startswith(f"{each}.") and "._" not in each]
    near = difflib.get_close_matches(key, sorted(other), n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"there is no key {key} (in {word}): {hint}`--cfg job` shows every key."


def defaults_of(path: Path) -> dict[str, str]:
    """The option of each group that a file of conf/ chooses, or one that it builds on."""
    chosen: dict[str, str] = {}
    for entry in OmegaConf.load(path).get("defaults", []):
        if isinstance(entry, str):
            chosen |= {} if entry == "_self_" else defaults_of(path.with_name(f"{entry}.yaml"))
        else:
            chosen |= {group.removeprefix("override ").lstrip("/"): option for group, option in entry.items() if option}
    return chosen


@cache
def keys_of(command: str, choices: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """Every key of a command, its groups among them, by the options that are chosen in these."""
    files = [*_files(CONF / f"{command}.yaml", "", dict(choices))]
    groups = {prefix.removesuffix(".") for _, prefix in files if prefix}
    return frozenset(groups.union(*(_keys(path, prefix) for path, prefix in files)))


def _files(path: Path, prefix: str, choices: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """The files that one of conf/ is composed of, each with what its keys begin with. An experiment adds no keys."""
    yield path, prefix
    for entry in OmegaConf.load(path).get("defaults", []):
        if isinstance(entry, str):
            if entry != "_self_":
                yield from _files(path.with_name(f"{entry}.yaml"), prefix, choices)
            continue
        ((group, _),) = entry.items()
        if group.startswith("override ") or group == "experiment":
            continue
        chosen = CONF / group / f"{choices.get(group)}.yaml"
        for option in [chosen] if chosen.is_file() else CONF.glob(f"{group}/*.yaml"):
            yield from _files(option, f"{group}.", choices)


def _keys(path: Path, prefix: str) -> Iterator[str]:
    whole = "# @package _global_" in path.read_text(encoding="utf-8")
    settings = OmegaConf.to_container(OmegaConf.load(path))
    return dotted({key: settings[key] for key in settings if key != "defaults"}, "" if whole else prefix)


def _unread(node: dict[str, Any], path: str, known: frozenset[str]) -> Iterator[tuple[str, set[str]]]:
    """The keys that nothing reads, each with those that would be read in its place."""
    prefix = f"{path}." if path else ""
    strange = [name for name in node if f"{prefix}{name}" not in known and path not in _OPEN]
    taken = _arguments(node, path) if strange else set()
    for name in strange:
        if taken is not None and name not in taken:
            yield f"{prefix}{name}", {f"{prefix}{each}" for each in taken - _HYDRA}
    for name, value in node.items():
        if isinstance(value, dict) and (name not in strange or "_target_" in value):
            yield from _unread(value, f"{prefix}{name}", known)


def _arguments(node: dict[str, Any], path: str) -> set[str] | None:
    """What is taken by the function that a group of settings is handed to: empty if none is, None for anything.

    A function that is not there is refused where it is called.
    """
    target = node.get("_target_", _CALLED.get(path))
    if target is None:
        return set()
    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except Exception:  # whatever a module of the user's own does when it is imported
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters} - _PASSED.get(path, set()) | _HYDRA


def _word(key: str, words: Sequence[str]) -> str:
    """The word of the command line that a key comes from, as far as it comes from there."""
    typed = {word: word.lstrip("+").partition("=")[0] for word in words}
    near = [word for word, name in typed.items() if f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.")]
    return near[-1] if near else "a file of settings"

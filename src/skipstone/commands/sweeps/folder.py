"""What a sweep's folder says of its command, and the way back to it: resume=<folder>.

A folder may come from anywhere. So its words are followed only where they say what a sweep of ours can say: settings of
conf/, given as plain values, and the few of a launcher that run nothing by themselves.
"""

import itertools
import logging
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString, RangeSweep
from hydra.errors import HydraException

from skipstone.commands import settings
from skipstone.commands.settings import CONF
from skipstone.store import files

log = logging.getLogger(__name__)

OVERVIEW = "multirun.yaml"  # in the folder of a sweep, its command line; Hydra writes it, at a resume anew
MULTIRUN = ("-m", "--multirun")

_WORD, _FOLDER, _MODE = "resume=", "hydra.sweep.dir=", "hydra.mode="
_LAUNCHER = "hydra/launcher"
_LAUNCHER_KEYS = (
    "n_jobs", "name", "partition", "account", "qos", "constraint", "array_parallelism", "nodes", "tasks_per_node",
    "cpus_per_task", "gpus_per_node", "mem_gb", "timeout_min", "signal_delay_s", "max_num_timeout",
)  # fmt: skip
# What may stand beside resume=: where the jobs are run, and what is told of them meanwhile. None of it is in a model's
# key or in the evaluation. trainer.accelerator is missing, for precision=auto, which is in the key, follows it.
_BESIDE = re.compile(r"hydra/launcher|hydra\.launcher\..+|logger(\..+)?|trainer\.(devices|threads|enable_progress_bar)")
_TABLE = "evaluation.schedules"  # the one setting whose value has names of its own


@dataclass(frozen=True)
class Command:
    """Of a sweep, as it was typed, nothing in it resolved.

    hydra, task: overrides of Hydra's own settings, and of ours.  cwd: where, None if that is not known.
    """

    hydra: list[str]
    task: list[str]
    cwd: str | None


def is_sweep(folder: Path) -> bool:
    """Whether a multirun was begun there."""
    return (folder / OVERVIEW).is_file()


def command(folder: Path) -> Command:
    """That with which the sweep in `folder` was begun, whatever stood beside a later resume=.

    Raises FileNotFoundError where there is no sweep, ValueError if the file that tells is damaged.
    """
    path = folder / OVERVIEW
    if not is_sweep(folder):
        raise FileNotFoundError(f"{folder} is no sweep: name a folder outputs/sweeps/<date>/<time>-<pid>.")
    try:
        past = files.read_yaml(path)["hydra"]
        hydra, task = ([str(word) for word in past["overrides"][whose]] for whose in ("hydra", "task"))
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged, so what the sweep was is not known: give its command anew.") from error
    began = list(itertools.takewhile(lambda word: not word.startswith(_WORD), task))
    if len(began) < len(task):  # what stood beside resume= comes after these two, see `resumed`
        hydra = list(itertools.takewhile(lambda word: not word.startswith(_FOLDER), hydra))
    runtime = past.get("runtime")
    cwd = runtime.get("cwd") if isinstance(runtime, dict) else None
    return Command(hydra, began, cwd if isinstance(cwd, str) else None)


def job_overrides(folder: Path) -> list[list[str]]:
    """The overrides of each of its jobs, in order: what Hydra's own sweeper makes of the command line.

    Empty where another sweeper made the jobs, or one that was told more than the command line says.
    """
    past = command(folder)
    if any(word.lstrip("+").startswith(("hydra/sweeper", "hydra.sweeper")) for word in past.hydra):
        return []
    values: dict[str, list[str]] = {}
    for override in parsed(past.task):
        key = override.get_key_element()
        swept = override.is_sweep_override()
        said = override.sweep_string_iterator() if swept else [override.get_value_element_as_str()]
        values[key] = [f"{key}={value}" for value in said]
    return [list(job) for job in itertools.product(*values.values())]


def same_job(command: str, overrides: Sequence[str]) -> bool:
    """Whether a job's command, as its result has it, is that of these overrides, but for what changes no result."""
    return _settling(shlex.split(command)[2:]) == _settling(overrides)


def _settling(overrides: Sequence[str]) -> list[str]:
    keys = {word: word.lstrip("+").partition("=")[0] for word in overrides}
    return [word for word, key in keys.items() if f"{key}=" != _WORD and not _BESIDE.fullmatch(key)]


def parsed(words: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):  # schedule=glob(*) wants to know which there are
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        return parser.parse_overrides(list(words))


def resumed(words: Sequence[str]) -> list[str]:
    """A command line with resume=<folder> as that sweep's own command, for the jobs that have no result.

    What stands beside it is added, for this time: nothing that changes a result, which would be mixed with those that
    are there. The process goes to where the sweep was begun, for paths, that of the models among them, may be relative
    to there. Raises FileNotFoundError for a folder that is no sweep's, ValueError for another setting beside it, and
    where the folder asks for what is not followed.
    """
    told = [word for word in words if word.startswith(_WORD) and word != f"{_WORD}null"]
    more = [word for word in words if not word.startswith(_WORD)]
    if not told:
        return more
    folder = Path(_unquoted(told[-1].removeprefix(_WORD))).absolute()
    past = command(folder)
    _require_ours(past, folder)
    swept = {override.key_or_group for override in parsed(past.task) if override.is_sweep_override()}
    more = [word for word in more if word not in MULTIRUN]
    for override in parsed([word for word in more if not word.startswith("-")]):
        same = override.package is None and _BESIDE.fullmatch(override.key_or_group)
        if not same or override.is_sweep_override() or override.key_or_group in swept:
            raise ValueError(
                f"{override.input_line} is not allowed beside resume=, which runs the same jobs: only the launcher, "
                "the logger and trainer.devices, threads and enable_progress_bar may be set there, where they are not "
                "swept over; for other settings begin a new sweep with -m, which uses the trained models again."
            )
    _go_to(past.cwd)
    hydra = [word for word in past.hydra if not word.startswith((_MODE, _FOLDER))]
    place = _quoted(str(folder))
    return ["-m", *hydra, *past.task, f"{_WORD}{place}", f"{_FOLDER}{place}", *more]


def _go_to(cwd: str | None) -> None:
    """Where the sweep was begun. What lies there is data: a worker process must not take a module from there."""
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        os.chdir(cwd or ".")
    except OSError:
        log.warning("the sweep was begun in %s, which is gone: its relative paths are taken from here", cwd)


def _quoted(text: str) -> str:
    """As a value in Hydra's grammar, whatever is in it."""
    return "'" + text.replace("'", r"\'") + "'"


def _unquoted(text: str) -> str:
    """The text of such a value; what has no quotes stays as it is."""
    bare = len(text) < 2 or text[0] != text[-1] or text[0] not in "'\""
    return text if bare else text[1:-1].replace(f"\\{text[0]}", text[0])


def _require_ours(past: Command, folder: Path) -> None:
    keys = settings.known_keys()
    groups = {path.parent.name for path in CONF.glob("*/*.yaml")}
    try:
        overrides = parsed([*past.hydra, *past.task])
    except HydraException as error:
        raise ValueError(f"{folder / OVERVIEW} is damaged: {error}") from error
    for override in overrides:
        if not _is_ours(override, keys, groups):
            raise ValueError(
                f"{folder / OVERVIEW} asks for {override.input_line}, which is not followed, for it may run any code: "
                f"if that is your own, give the sweep's command itself, with -m and hydra.sweep.dir={folder}."
            )


def _is_ours(override: Override, keys: set[str], groups: set[str]) -> bool:
    """Whether a sweep of ours can contain it."""
    key, value = override.key_or_group, override.value()
    if override.is_delete() or override.package is not None:
        return False
    if f"{key}=" in (_MODE, _FOLDER):
        return True  # not followed
    if key in groups or key == _LAUNCHER:
        return _is_plain(value) and "/" not in override.input_line.partition("=")[2]  # a file of conf/, no other
    outer, _, name = key.rpartition(".")
    launcher = outer == "hydra.launcher" and name in _LAUNCHER_KEYS
    lightning = outer == "trainer" and re.fullmatch(r"[a-z]\w*", name)  # +trainer.key=value
    return bool(launcher or lightning or key in keys) and _is_plain(value, table=key == _TABLE)


def _is_plain(value: Any, table: bool = False) -> bool:
    """Whether it is a number, a word, or a list or sweep of such; table: or gives them names."""
    if isinstance(value, (RangeSweep, Glob)):
        return True
    if isinstance(value, QuotedString):
        value = value.text
    if isinstance(value, dict):
        return table and all(str(name).isalnum() and _is_plain(part) for name, part in value.items())
    if isinstance(value, (list, ChoiceSweep)):
        return all(_is_plain(part, table) for part in (value if isinstance(value, list) else value.list))
    if isinstance(value, str):
        return "${" not in value and value.isprintable()  # a line of its own is a command in a cluster's script
    return value is None or isinstance(value, (bool, int, float))

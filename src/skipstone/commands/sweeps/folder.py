"""What lies in a sweep's folder, the command that began it, and that command given again: resume=<folder>.

A folder may come from anywhere. Its words are followed only where they are a sweep's own: settings of conf/ with plain
values. They run where the user stands.
"""

import itertools
import logging
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from skipstone.commands.schema import CONF, known_keys
from skipstone.commands.words import MULTIRUN, quoted, unquoted
from skipstone.store import files

log = logging.getLogger(__name__)

OVERVIEW = "multirun.yaml"  # in the folder of a sweep, its command line; Hydra writes it, and again at a resume=
FAILURE = "error.txt"  # in the folder of a job that failed, why
JOB_LOCK = "lock"  # in the folder of a job, while it is run

_RESUME, _FOLDER, _MODE = "resume=", "hydra.sweep.dir=", "hydra.mode="
# What may stand beside resume=: where the jobs run, and what is told of them meanwhile. None of it is in a model's
# key or in the evaluation. trainer.accelerator is missing, because precision=auto, which is in the key, follows it.
_BESIDE = re.compile(r"hydra/launcher|hydra\.launcher\..+|logger(\..+)?|trainer\.(devices|threads|enable_progress_bar)")
_TAUS = re.compile(r"(\{[A-Za-z0-9:,.\[\] ]*\},?)+")  # values of evaluation.schedules, the one setting with braces


@dataclass(frozen=True)
class Command:
    """A sweep's command as it was typed, nothing in it resolved.

    hydra, task: overrides of Hydra's own settings, and of ours.  cwd: where it was typed, None if that is not known.
    """

    hydra: list[str]
    task: list[str]
    cwd: str | None


def is_sweep(folder: Path) -> bool:
    """Whether a multirun was begun there."""
    return (folder / OVERVIEW).is_file()


def command(folder: Path) -> Command:
    """The command that began the sweep in `folder`, without the words of a later resume=.

    Raises FileNotFoundError where there is no sweep, ValueError if the file that tells is damaged.
    """
    path = folder / OVERVIEW
    if not is_sweep(folder):
        raise FileNotFoundError(f"{folder} is no sweep: name a folder outputs/sweeps/<date>/<time>-<pid>.")
    try:
        past = files.read_yaml(path)["hydra"]
        hydra, task = ([str(word) for word in past["overrides"][whose]] for whose in ("hydra", "task"))
        cwd = past.get("runtime", {}).get("cwd")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged, so what the sweep was is not known: give its command again, with -m."
        ) from error
    began = list(itertools.takewhile(lambda word: not word.startswith(_RESUME), task))
    if len(began) < len(task):  # the words beside resume= come after these two, see `again`
        hydra = list(itertools.takewhile(lambda word: not word.startswith(_FOLDER), hydra))
    return Command([word for word in hydra if not word.startswith((_MODE, _FOLDER))], began, cwd)


def typed(folder: Path) -> str:
    """The whole command that runs the jobs without a result, to be pasted into a shell."""
    past = command(folder)
    place = str(folder) if re.fullmatch(r"[\w./-]+", str(folder)) else quoted(str(folder))
    words = ["python", "train.py", "-m", *past.hydra, *past.task, f"{_FOLDER}{place}"]
    return " ".join(shlex.quote(word) if word.isprintable() else f"$'{spelt(word)}'" for word in words)


def spelt(word: str) -> str:
    """A word from elsewhere as a terminal may show it; signs that it would obey become those of bash's $'…'."""
    if word.isprintable():
        return word
    return "".join(sign if sign.isprintable() and sign not in r"\'" else f"\\U{ord(sign):08x}" for sign in word)


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
    return [word for word, key in keys.items() if f"{key}=" != _RESUME and not _BESIDE.fullmatch(key)]


def parsed(words: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):  # schedule=glob(*) wants to know which there are
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        return parser.parse_overrides(list(words))


def again(words: Sequence[str]) -> list[str]:
    """A command line in which resume=<folder> has become that sweep's own words; another one as it is.

    Words beside it hold once. Only those may stand there that change no result, because the results that are there
    stay. Raises FileNotFoundError for a folder that is no sweep's, and ValueError for another word beside resume=, and
    for a word of the folder that is not a sweep's own.
    """
    named = [word for word in words if word.startswith(_RESUME) and word != f"{_RESUME}null"]
    beside = [word for word in words if not word.startswith(_RESUME)]
    if not named:
        return beside
    folder = Path(unquoted(named[-1].removeprefix(_RESUME))).absolute()
    past = command(folder)
    _require_own(past, folder)
    beside = [word for word in beside if word not in MULTIRUN]
    swept = {override.key_or_group for override in parsed(past.task) if override.is_sweep_override()}
    for override in parsed([word for word in beside if not word.startswith("-")]):
        same = override.package is None and _BESIDE.fullmatch(override.key_or_group)
        if not same or override.is_sweep_override() or override.key_or_group in swept:
            raise ValueError(
                f"{override.input_line} is not allowed beside resume=, which runs the same jobs: only the launcher, "
                "the logger and trainer.devices, threads and enable_progress_bar may be set there, where they are not "
                "swept over; for other settings begin a new sweep with -m, which uses the trained models again."
            )
    if past.cwd not in (None, os.getcwd()):
        log.warning("the sweep was begun in %r: its relative paths are taken from here", past.cwd)
    os.environ["PYTHONSAFEPATH"] = "1"  # a worker process takes no module from where the user stands
    place = quoted(str(folder))
    return ["-m", *past.hydra, *past.task, f"{_RESUME}{place}", f"{_FOLDER}{place}", *beside]


def _require_own(past: Command, folder: Path) -> None:
    """Raise ValueError where a word of the folder is not a sweep's own: it might run any code."""
    groups = {"hydra/launcher", *(path.parent.name for path in CONF.glob("*/*.yaml"))}
    launcher = {key for path in CONF.glob("hydra/launcher/*.yaml") for key in OmegaConf.load(path)} - {"defaults"}
    keys = known_keys() | {f"hydra.launcher.{key}" for key in (*launcher, "n_jobs")}
    try:
        overrides = parsed([*past.hydra, *past.task])
    except OverrideParseException as error:
        raise ValueError(f"{folder / OVERVIEW} is damaged: {spelt(error.override)} cannot be read.") from error
    for override in overrides:
        key, value = override.key_or_group, override.input_line.partition("=")[2]
        known = key in keys or key in groups or re.fullmatch(r"trainer\.[a-z]\w*", key)  # Lightning's own: +trainer.x
        foreign = "${/" if key in groups else "${"  # an option is a file of conf/
        harmless = value.isprintable() and not set(foreign) & set(value)  # a line of its own is a script's command
        harmless |= key == "evaluation.schedules" and _TAUS.fullmatch(value) is not None
        if not (known and harmless) or override.is_delete() or override.package is not None:
            raise ValueError(
                f"{folder / OVERVIEW} asks for {spelt(override.input_line)}, which is not followed, because it may run "
                f"any code: if the sweep is your own, give the whole command: {typed(folder)}"
            )

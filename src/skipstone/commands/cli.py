"""The outermost layer of every command: an expected failure becomes one sentence and an exit code.

HYDRA_FULL_ERROR=1 in the environment shows the traceback instead.
"""

import errno
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from safetensors import SafetensorError
from yaml import YAMLError

from skipstone.commands.schema import CONF, defaults_of, keys_of, unknown
from skipstone.commands.words import MULTIRUN, readable

# Errors of the place that is written to, and what to do about them
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_IN_THE_WAY = (errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY)
_GONE = (errno.ENOENT, errno.ESTALE)
_ADVICE = {
    **dict.fromkeys(_NO_ROOM, "make room or get access there, or set paths.outputs to another folder"),
    **dict.fromkeys(_IN_THE_WAY, "move what is in the way there, or name another folder"),
    **dict.fromkeys(_GONE, "it was removed meanwhile, or a link leads nowhere: put it back or remove the link"),
    errno.ELOOP: "links lead in a circle there: remove them",
}
_UNMADE = "no folder can be made there, so name another place"
_OTHERWISE = "see what is wrong there, or name another place"

# What a user can cause and mend: wrong values, missing files, no disk, no network. Anything else is a bug of ours
# and shows its traceback.
_EXPECTED = (ValueError, OSError, SafetensorError, HydraException, OmegaConfBaseException, YAMLError)

# What Python, numpy and torch say where memory is short
_NO_MEMORY = re.compile(
    r"unable to allocate|can't allocate memory|out of memory|not enough memory|size calculation overflowed",
    re.IGNORECASE,
)

# Of Hydra's launchers, those that are installed apart
_LAUNCHERS = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}


def main(job: Callable[[], None]) -> None:
    """Run a Hydra job; on an expected failure print one sentence to stderr and exit with 1.

    SIGTERM is an interrupt like Ctrl-C, at whatever moment; a training and a multirun have their own answer to both.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let Hydra raise, so that this layer can speak
    os.environ.pop("MPLBACKEND", None)  # figures go to files; matplotlib refuses to be imported with an unknown one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows few letters must not cost a run its end
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in MULTIRUN)  # Hydra takes -m at an end alone
    try:
        for text in (*sys.argv[1:], os.getcwd()):
            if not _encodable(text):  # no log can hold it
                raise ValueError(_not_utf8(text))
        sys.argv[1:] = readable(sys.argv[1:])
        job()
    except BrokenPipeError:  # of `--help | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if full or not expected(error):
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # all is saved: a further one would interrupt the interpreter's end
        how = "the same command continues from the last checkpoint, or in a sweep resume=<its folder>"
        print(f"interrupted; {how}", file=sys.stderr)
        sys.exit(130)


def expected(error: BaseException) -> bool:
    """Whether it is told in one sentence."""
    return isinstance(error, _EXPECTED) or _out_of_memory(error)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sentence(error: BaseException) -> str:
    """One line that says what is wrong and what to do."""
    text = re.sub(r"\[Errno -?\d+\] ?", "", _sentence(error))  # of an error that another one quotes
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _sentence(error: BaseException) -> str:
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    if _out_of_memory(error):
        wanted = re.search(r"allocate ([\d.]+ \w+)", str(error))
        much = f" for {wanted[1]} more" if wanted else ""
        return (
            f"there is not enough memory{much}: make batches, images or the network smaller, or ask for fewer images."
        )
    group, _, name = str(getattr(error, "missing_cfg_file", None)).rpartition("/")
    if group == "hydra/launcher" and name in _LAUNCHERS:
        return f"{group}={name} needs {_LAUNCHERS[name]}, which is not installed: pip install -e '.[launchers]'."
    if isinstance(error, MissingConfigException) and error.options:
        return f"{group}={name} is unknown: choose one of {', '.join(sorted(error.options))}."
    if str(error).startswith("Config group override must be"):
        nothings = {f"{path.name}=null" for path in CONF.iterdir() if path.is_dir()}
        said = next((word for word in sys.argv[1:] if word in nothings), "null")
        return f"{said} is not allowed: leave it out, or choose one of the options that --help tells."
    if isinstance(error, ConfigCompositionException):
        return _composition_sentence(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read: write key=value, a list as 'key=[1,2]', other signs as \"key='…'\"."
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"{error.full_key} has no value: set {error.full_key}=<value>."
    if isinstance(error, OSError) and error.strerror and error.errno:
        where = f" at {error.filename}" if error.filename else ""
        advice = _UNMADE if error.errno in _GONE and _making(error) else _ADVICE.get(error.errno, _OTHERWISE)
        return f"{error.strerror}{where}: {advice}."
    if isinstance(error, UnicodeEncodeError):
        return _not_utf8(error.object)
    if isinstance(error, UnicodeDecodeError):
        return f"a file that must be text is not UTF-8, where it reads {error.object[:40]!r}: repair or remove it."
    text = re.sub(r"\s+(full_key|object_type|reference_type)[:=].*", "", str(error))  # where OmegaConf and Hydra stood
    return text.removeprefix("ValueError raised while resolving interpolation: ")


def _making(error: BaseException) -> bool:
    """Whether it comes out of making a folder: nothing that was there is gone."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].name in ("mkdir", "makedirs")


def _not_utf8(text: str) -> str:
    return f"{ascii(text)[1:-1]} is not UTF-8: rename that file or folder."


def _composition_sentence(error: ConfigCompositionException) -> str:
    """Hydra's complaint about an override, with the nearest keys that exist."""
    text = " ".join(str(error).split())
    if text.startswith("Ambiguous value"):
        said = text.split("'")[1]
        return f"{said} has several values: add -m for a sweep over them, or write a list as 'key=[1,2]'."
    inside = re.search(r"full_key: (\S+)", str(error.__cause__))  # of a group in braces, the key that is wrong
    twice = text.startswith("Multiple values for") or "more than once" in text
    for override in (word for word in sys.argv[1:] if "=" in word):
        key = override.split("=", 1)[0].lstrip("+~")
        if twice and override.startswith("+") and (CONF / key).is_dir():
            return f"{override} is not allowed: the command has that group already, leave out the +."
        if f"'{key}'" in text and not override.startswith("+"):
            if key.startswith("hydra.launcher."):
                return f"{override} is a setting of a launcher that is not chosen: add hydra/launcher=joblib, or slurm."
            if (CONF / key).is_dir() and not inside:
                return f"{override} is not allowed: this command has no group {key}; `--cfg job` shows every key."
            wrong = inside[1] if inside and inside[1].startswith(f"{key}.") else key
            command, choices = _chosen()
            return unknown(wrong, override, keys_of(command, tuple(sorted(choices.items()))), choices)
    return text


def _chosen() -> tuple[str, dict[str, str]]:
    """This command, and the option of each group: a file's, unless words choose another; none where a sweep does."""
    name = Path(sys.argv[0]).stem
    command = name if (CONF / f"{name}.yaml").is_file() else "train"
    typed = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:] if "=" in word)
    experiment = CONF / "experiment" / f"{typed.get('experiment')}.yaml"
    choices = defaults_of(CONF / f"{command}.yaml") | (defaults_of(experiment) if experiment.is_file() else {})
    choices |= {group: option for group, option in typed.items() if (CONF / group).is_dir() and option[:1] != "{"}
    return command, {group: option for group, option in choices.items() if option.isidentifier()}

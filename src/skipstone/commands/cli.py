"""The outermost layer of every command: an expected failure becomes one sentence and an exit code.

HYDRA_FULL_ERROR=1 in the environment shows the traceback instead.
"""

import difflib
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from safetensors import SafetensorError
from yaml import YAMLError

from skipstone.commands.settings import CONF, PATHS, dotted

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
_OTHERWISE = "see what is wrong there, or name another place"

# What a user can cause and mend: wrong values, missing files, no disk, no network. Anything else is a bug of ours
# and shows its traceback.
EXPECTED = (ValueError, OSError, SafetensorError, HydraException, OmegaConfBaseException, YAMLError)

MULTIRUN = ("-m", "--multirun")

# In a path: signs with which a value is a list, a sweep, quoted already or interpolated; and what needs no quotes
_GRAMMAR = set(",'\"\\[]{}()$")
_PLAIN = re.compile(r"[A-Za-z0-9_./:+-]*")

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
        sys.argv[1:] = [_readable(word) for word in sys.argv[1:]]
        job()
    except BrokenPipeError:  # of `--help | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except EXPECTED as error:
        if full:
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        how = "the same command continues from the last checkpoint, or in a sweep resume=<its folder>"
        print(f"interrupted; {how}", file=sys.stderr)
        sys.exit(130)


def _readable(word: str) -> str:
    """A word of the command line as Hydra's grammar reads it: a path may hold signs that there mean something else.

    ~ is the home folder, as in a shell, which does not look behind an =. Raises ValueError for ~key, Hydra's way to
    delete one, for @ without a name, which Hydra does not survive, and for what is not UTF-8, which no log can hold.
    """
    if word.startswith("~"):
        raise ValueError(f"{word} is not allowed: every setting is needed, give it another value or leave it out.")
    for text in (word, os.getcwd()):
        if not _encodable(text):
            raise ValueError(_not_utf8(text))
    key, told, value = word.partition("=")
    if told and key.lstrip("+").startswith("@"):
        raise ValueError(f"{word} is not allowed: a setting has a name before the @.")
    if not told or key.lstrip("+") not in PATHS or _GRAMMAR & set(value):
        return word
    path = os.path.expanduser(value)
    return f"{key}={path}" if _PLAIN.fullmatch(path) else f"{key}='{path}'"


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
        return f"{error.strerror}{where}: {_ADVICE.get(error.errno, _OTHERWISE)}."
    if isinstance(error, UnicodeEncodeError):
        return _not_utf8(error.object)
    if isinstance(error, UnicodeDecodeError):
        return f"a file that must be text is not UTF-8, where it reads {error.object[:40]!r}: repair or remove it."
    text = re.sub(r"\s+(full_key|object_type|reference_type)[:=].*", "", str(error))  # where OmegaConf and Hydra stood
    return text.removeprefix("ValueError raised while resolving interpolation: ")


def _not_utf8(text: str) -> str:
    return f"{ascii(text)[1:-1]} is not UTF-8: rename that file or folder."


def _composition_sentence(error: ConfigCompositionException) -> str:
    """Hydra's complaint about an override, with the nearest keys that exist."""
    text = " ".join(str(error).split())
    if text.startswith("Ambiguous value"):
        said = text.split("'")[1]
        return f"{said} has several values: add -m for a sweep over them, or write a list as 'key=[1,2]'."
    twice = text.startswith("Multiple values for") or "more than once" in text
    for override in (word for word in sys.argv[1:] if "=" in word):
        key = override.split("=", 1)[0].lstrip("+~")
        if twice and override.startswith("+") and (CONF / key).is_dir():
            return f"{override} is not allowed: the command has that group already, leave out the +."
        if f"'{key}'" in text and not override.startswith("+"):
            if key.startswith("hydra.launcher."):
                return f"{override} is a setting of a launcher that is not chosen: add hydra/launcher=joblib, or slurm."
            if (CONF / key).is_dir():
                return f"{override} is not allowed: this command has no group {key}; `--cfg job` shows every key."
            near = difflib.get_close_matches(key, _known_keys(), n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            return f"there is no key {key} (in {override}): {hint}`--cfg job` shows every key."
    return text


def _known_keys() -> list[str]:
    """Every group and every dotted key of this command's configuration, with its options where they can be composed."""
    name = Path(sys.argv[0]).stem
    name = name if (CONF / f"{name}.yaml").is_file() else "train"
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    options = {f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml")}
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = compose(name, overrides=[word for word in sys.argv[1:] if word in options])
        except HydraException:  # the very words that the sentence is on
            config = compose(name)
    config = OmegaConf.to_container(config, resolve=False)
    return sorted({*(group for group in groups if group in config or name == "train"), *dotted(config)})

"""The outermost layer of every command: an expected failure becomes one sentence and an exit code.

HYDRA_FULL_ERROR=1 in the environment shows the traceback instead.
"""

import difflib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from safetensors import SafetensorError
from yaml import YAMLError

from skipstone.settings import CONF

# Errors of the place that is written to, and what to do about them
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_IN_THE_WAY = (errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY)
_ADVICE = {
    **dict.fromkeys(_NO_ROOM, "make room or get access there, or set paths.outputs to another folder"),
    **dict.fromkeys(_IN_THE_WAY, "move what is in the way there, or name another folder"),
}

# What a user can cause and mend: wrong values, missing files, no disk, no network. Anything else is a bug of ours
# and shows its traceback.
_EXPECTED = (ValueError, OSError, SafetensorError, HydraException, OmegaConfBaseException, YAMLError)


FAILURE = "error.txt"  # in the folder of a job that failed, why
SWEEP = "multirun.yaml"  # in a sweep's folder, its configuration
_MULTIRUN = ("-m", "--multirun")


class Sweep(Callback):
    """Which multirun this process carries out: a Hydra callback, for the end of a failed one calls no hook.

    folder: the sweep's, once it has begun.
    """

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        Sweep.folder = Path(config.hydra.sweep.dir)

    @staticmethod
    def resume() -> None:
        """Turn resume=<folder> on the command line into that sweep's own command, for the jobs that have no result."""
        folders = [word.removeprefix("resume=") for word in sys.argv[1:] if word.startswith("resume=")]
        if not folders:
            return
        folder = Path(folders[-1])
        hydra, task = past_overrides(folder)
        for word in (*hydra, *task):
            if "_target_" in word or "hydra.searchpath" in word:
                raise ValueError(
                    f"{folder / SWEEP} asks for {word}, which may run any code: if that is your own, give the sweep's "
                    f"command itself, with -m and hydra.sweep.dir={folder}."
                )
        hydra = [word for word in hydra if not word.startswith(("hydra.mode=", "hydra.sweep.dir="))]
        more = [word for word in sys.argv[1:] if not word.startswith("resume=") and word not in _MULTIRUN]
        sys.argv[1:] = ["-m", *hydra, *task, *more, f"hydra.sweep.dir={folder}"]


def past_overrides(folder: Path) -> tuple[list[str], list[str]]:
    """What the command line of the sweep in `folder` said: overrides of Hydra's own settings, and of ours.

    They come as they were typed: nothing in them is resolved. Raises FileNotFoundError where there is no sweep,
    ValueError if the file that tells is damaged.
    """
    path = folder / SWEEP
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no sweep: name a folder outputs/sweeps/<date>/<time>-<pid>.")
    try:
        past = OmegaConf.to_container(OmegaConf.load(path))["hydra"]["overrides"]
        return [str(word) for word in past["hydra"]], [str(word) for word in past["task"]]
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged, so what the sweep was is not known: give its command anew.") from error


@contextmanager
def failure_noted() -> Iterator[None]:
    """Leave the sentence on a job's failure in its folder, for the report over all jobs."""
    note = Path(HydraConfig.get().runtime.output_dir) / FAILURE
    try:
        yield
    except Exception as error:
        with suppress(OSError):  # a full disk has failed the job already
            note.write_text(f"{sentence(error)}\n")
        raise
    note.unlink(missing_ok=True)


def main(job: Callable[[], None]) -> None:
    """Run a Hydra job; on an expected failure print one sentence to stderr and exit with 1."""
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let Hydra raise, so that this layer can speak
    os.environ.pop("MPLBACKEND", None)  # figures go to files; matplotlib refuses to be imported with an unknown one
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows few letters must not cost a run its end
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in _MULTIRUN)  # Hydra takes -m at an end alone
    try:
        job()
    except _EXPECTED as error:
        if full:
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def sentence(error: BaseException) -> str:
    """One line that says what is wrong and what to do."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name} is unknown: choose one of {', '.join(sorted(error.options))}."
    if isinstance(error, ConfigCompositionException):
        return _composition_sentence(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override} cannot be read: write key=value, a list as 'key=[1,2]', quoted for the shell."
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"{error.full_key} has no value: set {error.full_key}=<value>."
    if isinstance(error, OSError) and error.errno in _ADVICE:
        where = f" at {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}: {_ADVICE[error.errno]}."
    text = re.sub(r"\s+(full_key|object_type)[:=].*", "", str(error))  # where OmegaConf and Hydra stood
    return " ".join(text.removeprefix("ValueError raised while resolving interpolation: ").split())


def _composition_sentence(error: ConfigCompositionException) -> str:
    """Hydra's complaint about an override, with the nearest keys that exist."""
    text = " ".join(str(error).split())
    if text.startswith("Ambiguous value"):
        said = text.split("'")[1]
        return f"{said} has several values: add -m for a sweep over them, or write a list as 'key=[1,2]'."
    for override in (word for word in sys.argv[1:] if "=" in word):
        key = override.split("=", 1)[0].lstrip("+~")
        if f"'{key}'" in text and not override.startswith("+"):
            near = difflib.get_close_matches(key, _known_keys(), n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            return f"there is no key {key} (in {override}): {hint}`--cfg job` shows every key."
    return text


def _known_keys() -> list[str]:
    """Every group and every dotted key of this command's configuration, with the options that it was told."""
    name = Path(sys.argv[0]).stem
    groups = [path.name for path in CONF.iterdir() if path.is_dir()]
    options = {f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml")}
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        told = [word for word in sys.argv[1:] if word in options]
        config = OmegaConf.to_container(compose(name, overrides=told), resolve=False)
    return sorted({*(group for group in groups if group in config or name == "train"), *_dotted(config)})


def _dotted(node: dict, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")

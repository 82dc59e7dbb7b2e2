"""Multiruns as the command line carries them out, with whatever launcher: in this process, in others, on a cluster.

What the jobs share lies in the sweep's folder and in the model store, never in the memory of a process.
"""

import itertools
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from skipstone import locks
from skipstone.command import EXPECTED, MULTIRUN, sentence
from skipstone.settings import CONF

log = logging.getLogger(__name__)

FAILURE = "error.txt"  # in the folder of a job that failed, why
OVERVIEW = "multirun.yaml"  # in the folder of a sweep, its command line
JOB_LOCK = "lock"  # in the folder of a job, while it is run
_GRACE = 20.0  # seconds that worker processes have to save what they train


class Sweep(Callback):
    """Which multirun this process began: a Hydra callback, for the end of a failed one calls no hook.

    folder: the sweep's, once it has begun; None in a process to which a launcher gave a job.
    """

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        Sweep.folder = Path(config.hydra.sweep.dir)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    """Interrupt once the worker processes have saved, for joblib kills those of an interrupted multirun at once.

    It kills them, too, as soon as one has ended; so those that have no job are left alone, and one that has saved
    releases its job and stays.
    """
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.default_int_handler)  # a second signal does not wait
    workers = {worker.pid: worker for worker in multiprocessing.active_children()}
    jobs = [(path, workers.get(locks.holder(path))) for path in Sweep.folder.glob(f"*/{JOB_LOCK}")]
    jobs = [(path, worker) for path, worker in jobs if worker is not None]
    for _, worker in jobs:
        worker.terminate()
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline and any(path.exists() and worker.is_alive() for path, worker in jobs):
        time.sleep(0.05)
    raise KeyboardInterrupt


@contextmanager
def reported() -> Iterator[None]:
    """Around all jobs of a command line: takes resume=, and leaves the report over a multirun, however that ended."""
    _resume()
    try:
        yield
    except Exception as error:
        complaint = _complaint(error)
        if complaint is None:
            raise
        raise ValueError(complaint) from error
    finally:
        if Sweep.folder is not None and is_sweep(Sweep.folder):
            from skipstone import sweep

            path = sweep.report(Sweep.folder)
            print(f"Look next at {path}" if path else f"No job of {Sweep.folder} has a result.")


def _complaint(error: Exception) -> str | None:
    """What befell the launcher, or None if it is something else."""
    again = f"python train.py resume={Sweep.folder} runs the jobs without a result."
    if isinstance(error, BrokenExecutor):
        return f"a worker process was killed, perhaps for want of memory, and with it the sweep: {again}"
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if not frame.f_globals["__name__"].startswith("submitit."):
        return None
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1].lstrip("- ")
    if type(error).__name__ in ("FailedJobError", "UncompletedJobError"):
        return f"a job came to no result ({last}), and others may go on: once they have ended, {again}"
    return f"the jobs could not be submitted: {last}"


def is_sweep(folder: Path) -> bool:
    """Whether a multirun was begun there."""
    return (folder / OVERVIEW).is_file()


def past_overrides(folder: Path) -> tuple[list[str], list[str]]:
    """What the command line of the sweep in `folder` said: overrides of Hydra's own settings, and of ours.

    They come as they were typed: nothing in them is resolved. Raises FileNotFoundError where there is no sweep,
    ValueError if the file that tells is damaged.
    """
    path = folder / OVERVIEW
    if not is_sweep(folder):
        raise FileNotFoundError(f"{folder} is no sweep: name a folder outputs/sweeps/<date>/<time>-<pid>.")
    try:
        past = OmegaConf.to_container(OmegaConf.load(path))["hydra"]["overrides"]
        hydra, task = ([str(word) for word in past[whose]] for whose in ("hydra", "task"))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged, so what the sweep was is not known: give its command anew.") from error
    return hydra, [word for word in task if not word.startswith("resume=")]


def command_line(folder: Path) -> list[str]:
    """The overrides of ours with which the sweep in `folder` was begun."""
    return past_overrides(folder)[1]


def job_overrides(folder: Path) -> list[str]:
    """The overrides of each of its jobs, in order: what Hydra's own sweeper makes of the command line."""
    settings: dict[str, list[str]] = {}
    for override in _parsed(command_line(folder)):
        key = override.get_key_element()
        values = (
            override.sweep_string_iterator() if override.is_sweep_override() else [override.get_value_element_as_str()]
        )
        settings[key] = [f"{key}={value}" for value in values]
    return [" ".join(job) for job in itertools.product(*settings.values())]


def _parsed(words: Sequence[str]) -> list[Override]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):  # schedule=glob(*) wants to know which there are
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        return parser.parse_overrides(list(words))


def _resume() -> None:
    """Turn resume=<folder> on the command line into that sweep's own command, for the jobs that have no result.

    What stands beside it is added. Raises FileNotFoundError for a folder that is no sweep's, ValueError for a setting
    that would make other jobs of it.
    """
    words = sys.argv[1:]
    folders = [word.removeprefix("resume=") for word in words if word.startswith("resume=")]
    if not folders:
        return
    folder = Path(folders[-1]).absolute()
    _return_to(folder)
    hydra, task = past_overrides(folder)
    for word in (*hydra, *task):
        if "_target_" in word or "hydra.searchpath" in word:
            raise ValueError(
                f"{folder / OVERVIEW} asks for {word}, which may run any code: if that is your own, give the sweep's "
                f"command itself, with -m and hydra.sweep.dir={folder}."
            )
    swept = {override.key_or_group for override in _parsed(task) if override.is_sweep_override()}
    more = [word for word in words if not word.startswith("resume=") and word not in MULTIRUN]
    for override in _parsed([word for word in more if not word.startswith("-")]):
        if override.is_sweep_override() or override.key_or_group in swept:
            raise ValueError(f"{override.input_line} is not allowed beside resume=: it would make other jobs of it.")
    hydra = [word for word in hydra if not word.startswith(("hydra.mode=", "hydra.sweep.dir="))]
    place = _quoted(str(folder))
    sys.argv[1:] = ["-m", *hydra, *task, *more, f"resume={place}", f"hydra.sweep.dir={place}"]


def _return_to(folder: Path) -> None:
    """Go where the sweep was begun, for its paths, that of the models among them, may be relative to there."""
    with suppress(OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError, LookupError, TypeError):
        os.chdir(OmegaConf.to_container(OmegaConf.load(folder / OVERVIEW))["hydra"]["runtime"]["cwd"])


def _quoted(text: str) -> str:
    """As a value in Hydra's grammar, whatever is in it."""
    return "'" + text.replace("'", r"\'") + "'"


class JobError(ValueError):
    """Why a job failed, in one sentence."""


@contextmanager
def failure_noted() -> Iterator[None]:
    """Around one job: leave the sentence on its failure in its folder, for the report over all jobs.

    In a process to which a launcher gave the job, an exception is told as a JobError, for not every exception survives
    the way to another process, and an interrupt ends the process, which would go on with the next job. A worker of
    joblib is told to stop by SIGTERM, and then waits for its end: see `_stop`.
    """
    hydra = HydraConfig.get()
    elsewhere = hydra.mode == RunMode.MULTIRUN and Sweep.folder is None
    worker = elsewhere and signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.default_int_handler)
    if worker:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    note = Path(hydra.runtime.output_dir) / FAILURE
    try:
        yield
    except Exception as error:
        with suppress(OSError):  # a full disk has failed the job already
            note.write_text(f"{sentence(error)}\n")
        if not elsewhere:
            raise
        if not isinstance(error, EXPECTED):  # a bug of ours, whose traceback would be lost
            log.exception("the job failed")
        raise JobError(sentence(error)) from None
    except KeyboardInterrupt:
        if not elsewhere:
            raise
        sys.stdout.flush()
        if worker:
            time.sleep(_GRACE)
        os._exit(128 + signal.SIGINT)
    note.unlink(missing_ok=True)

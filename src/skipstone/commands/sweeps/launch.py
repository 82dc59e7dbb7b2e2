"""Multiruns as the command line carries them out, with whatever launcher: in this process, in others, on a cluster.

What the jobs share lies in the sweep's folder and in the model store, never in the memory of a process.
"""

import logging
import multiprocessing
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError

from skipstone.commands.called import called
from skipstone.commands.cli import expected, sentence
from skipstone.commands.sweeps.folder import FAILURE, JOB_LOCK, again, is_sweep, parsed
from skipstone.commands.words import MULTIRUN
from skipstone.store import locks
from skipstone.training.ranks import end_with_parent

log = logging.getLogger(__name__)

_GRACE = 20.0  # seconds that worker processes have to save what they train


class Sweep(Callback):
    """Which multirun this process began: a Hydra callback, for the end of a failed one calls no hook.

    folder: the sweep's, once it has begun; None in a process to which a launcher gave a job.
    """

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        with suppress(InterpolationResolutionError):  # Hydra, about to look it up, says why; from here it would warn
            Sweep.folder = Path(config.hydra.sweep.dir)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _stop)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Drop the job's settings, a quarter of a megabyte that Hydra keeps of every job to a multirun's end."""
        job_return.cfg = job_return.hydra_cfg = None


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
    sys.argv[1:] = again(sys.argv[1:])
    _require_jobs(sys.argv[1:])
    try:
        yield
    except Exception as error:
        complaint = _complaint(error)
        if complaint is None:
            raise
        raise ValueError(complaint) from error
    finally:
        if Sweep.folder is not None and is_sweep(Sweep.folder):
            from skipstone.commands.sweeps import report

            path = report.report(Sweep.folder)
            print(f"Look next at {path}" if path else f"No job of {Sweep.folder} has a result.")


def _complaint(error: Exception) -> str | None:
    """What befell the launcher, or None if it is something else."""
    rest = f"{shlex.join([*called('train'), f'resume={Sweep.folder}'])} runs the jobs without a result."
    if isinstance(error, BrokenExecutor):
        return f"a worker process was killed, perhaps for want of memory, and with it the sweep: {rest}"
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if not frame.f_globals["__name__"].startswith("submitit."):
        return None
    last = (str(error).strip().splitlines() or [type(error).__name__])[-1].lstrip("- ")
    if type(error).__name__ in ("FailedJobError", "UncompletedJobError"):
        return f"a job came to no result ({last}), and others may go on: once they have ended, {rest}"
    return f"the jobs could not be submitted: {last}"


def _require_jobs(words: Sequence[str]) -> None:
    """Raise ValueError where a setting is to be swept over no value at all, of which Hydra makes a sweep of no jobs."""
    if not any(word in (*MULTIRUN, "hydra.mode=MULTIRUN") for word in words):
        return
    for override in parsed([word for word in words if "=" in word and not word.startswith("-")]):
        if override.is_discrete_sweep() and next(iter(override.sweep_string_iterator()), None) is None:
            raise ValueError(f"{override.input_line} names no value at all, so the sweep has no jobs: correct it.")


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
    note = Path(hydra.runtime.output_dir) / FAILURE
    try:
        with _told_by_sigterm() if elsewhere and _parent() else nullcontext():
            yield
    except Exception as error:
        with suppress(OSError):  # a full disk has failed the job already
            note.write_text(f"{sentence(error)}\n")
        if not elsewhere:
            raise
        if not expected(error):  # a bug of ours, whose traceback would be lost
            log.exception("the job failed")
        raise JobError(sentence(error)) from None
    except KeyboardInterrupt:
        if not elsewhere:
            raise
        sys.stdout.flush()
        if _parent() == os.getppid():
            time.sleep(_GRACE)
        os._exit(128 + signal.SIGINT)
    note.unlink(missing_ok=True)


def _parent() -> int | None:
    """The process that made this one its worker, be it there or not; None if this is no worker of joblib."""
    parent = multiprocessing.parent_process()
    return None if parent is None else parent.pid


@contextmanager
def _told_by_sigterm() -> Iterator[None]:
    """SIGTERM interrupts a worker's job, and ends a worker without one, as does the end of its parent.

    Between jobs an interrupt would not do: joblib's loop takes it for a result, and goes on.
    """
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    after = signal.SIG_DFL
    try:
        yield
    except KeyboardInterrupt:
        after = signal.SIG_IGN  # of a terminal's Ctrl-C it hears by SIGTERM, too, and is to stay while others save
        raise
    finally:
        signal.signal(signal.SIGTERM, after)

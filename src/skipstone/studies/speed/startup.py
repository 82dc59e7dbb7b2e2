"""How long a person waits: for --help and --cfg job, and from the command to the end of the first training step."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from skipstone.network import compiling
from skipstone.studies.speed.clock import Budget
from skipstone.studies.speed.report import Report
from skipstone.studies.speed.subject import Subject

# A first step of diffusers' network from nothing: what is imported, built, compiled and run, on random images.
_PEER = """
import sys, time, torch
from skipstone.studies.speed import clock, peers
from skipstone.studies.speed.subject import Subject
subject = Subject.of(sys.argv[1:])
train = peers.training_loop(subject, torch.randint(256, (1000, *subject.shape), dtype=torch.uint8))
clock.seconds(lambda: train(1), subject.device)
print(time.time())
"""


def startup(subject: Subject, report: Report, rounds: int, overrides: list[str], budget: Budget, peer: bool) -> None:
    """Medians over fresh processes. The first step is told apart by whether anything compiled is kept from before."""
    for flags in (["--help"], ["--cfg", "job"]):
        _note(report, " ".join(flags), [_command_seconds(flags) for _ in range(rounds)])
    with tempfile.TemporaryDirectory() as outputs:
        cold = _first_step_seconds(outputs, overrides)
        _note(report, "first step, nothing compiled" if subject.settings["compile"] else "first step", [cold])
        if budget.left > rounds * cold:
            times = [_first_step_seconds(outputs, [*overrides, "fresh=true"]) for _ in range(rounds)]
            _note(report, "first step, again", times)
    if peer and budget.left > 0:
        _note(report, "diffusers, first step", [_peer_seconds(overrides) for _ in range(rounds)])


def _note(report: Report, name: str, times: list[float]) -> None:
    report.note(name.replace(" ", "_"), times, f"{name:28} {statistics.median(times):6.1f} s")


def _command_seconds(flags: list[str]) -> float:
    began = time.time()
    _run(["-m", "skipstone", "train", *flags])
    return time.time() - began


def _first_step_seconds(outputs: str, overrides: list[str]) -> float:
    """Until the checkpoint that is written after step 1. What follows is as little as can be."""
    settings = ["trainer.checkpoint_every_n_steps=1", "trainer.max_steps=1", "logger=none", f"paths.outputs={outputs}"]
    few = ["schedule=custom", "schedule.timesteps=[0]", "tau=null", "evaluation.images=65", "evaluation.fine_images=1"]
    began = time.time()
    _run(["-m", "skipstone", "train", *overrides, *settings, *few])
    (checkpoint,) = Path(outputs).glob("models/*/last.ckpt")
    return checkpoint.stat().st_mtime - began


def _peer_seconds(overrides: list[str]) -> float:
    began = time.time()
    return float(_run(["-c", _PEER, *overrides]).split()[-1]) - began


def _run(arguments: list[str]) -> str:
    """What a fresh interpreter prints. Raises RuntimeError with what it said if it fails."""
    own = {name: value for name, value in os.environ.items() if name not in compiling.FOLDERS}  # its outputs' caches
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=own)
    if done.returncode:
        raise RuntimeError(f"{arguments} failed: {done.stderr[-2000:]}")
    return done.stdout

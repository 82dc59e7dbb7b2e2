"""A training that sleeps for longer than its lease, at whatever moment, harms nothing that its successor did."""

import hashlib
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from shell import ENVIRONMENT, ROOT, WARM
from test_survival import PATIENCE, wait_for

TRAIN = ["train.py", "experiment=smoke", "logger=none", "trainer.max_steps=12", "trainer.checkpoint_every_n_steps=2"]
LEASE = {"SKIPSTONE_LEASE": "2"}

# Runs a command that gets SIGSTOP just before it does something: opens a file, or renames one, the n-th time that its
# path fits. Python tells of both before it does them: a check that came before has passed.
SLEEPER = """
import os, re, runpy, signal, sys
event, fits, left = sys.argv[1], re.compile(sys.argv[2]), [int(sys.argv[3])]
def watch(what, arguments):
    if what == event and fits.search(" -> ".join(map(str, arguments[:2]))):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
sys.addaudithook(watch)
sys.argv = sys.argv[4:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
MODEL = r"models/mnist5k-\w{10}"
MOMENTS = {
    "before a checkpoint": ("open", r"\.last\.ckpt\.\w+\.tmp -> ", 3),
    "in a checkpoint": ("os.rename", r" -> .*/last\.ckpt$", 3),
    "at the losses": ("open", r"metrics\.csv -> ", 6),
    "before the settings": ("os.rename", r" -> .*/config\.yaml$", 1),
    "before the weights": ("os.rename", r" -> .*/ema\.safetensors$", 1),
    "at the very end": ("os.rename", r" -> .*/DONE$", 1),
    "when all is done": ("os.rename", rf" -> .*{MODEL}$", 1),
}


def begin(outputs, *words, moment):
    """The command, as a process that falls asleep, and writes what it says into a file beside outputs."""
    return subprocess.Popen(
        [sys.executable, "-c", SLEEPER, *map(str, moment), *TRAIN, f"paths.outputs={outputs}", *words],
        cwd=ROOT,
        env=ENVIRONMENT | LEASE,
        stdin=subprocess.DEVNULL,
        stdout=outputs.with_suffix(".asleep").open("w"),
        stderr=subprocess.STDOUT,
    )


def complete(outputs, *words):
    done = WARM.run([*TRAIN, f"paths.outputs={outputs}", *words], ROOT, ENVIRONMENT | LEASE)
    assert done.returncode == 0, done.stderr


def asleep(process):
    assert process.poll() is None, "it ended by itself"
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("undisturbed") / "outputs"
    complete(outputs)
    return outputs


def taken_over(outputs, moment, *words):
    """What lies in the model's folder once the successor is done, and once the sleeper is; what the latter says."""
    first = begin(outputs, *words, moment=moment)
    try:
        wait_for(lambda: asleep(first))
        complete(outputs, *words)
        (folder,) = (outputs / "models").iterdir()
        left = content(folder)
        first.send_signal(signal.SIGCONT)
        first.wait(PATIENCE)
    finally:
        first.kill()
        first.wait()
    assert list((outputs / "models").iterdir()) == [folder]
    return left, content(folder), outputs.with_suffix(".asleep").read_text(), first.returncode


def parametrized(moments, second_tier):
    return [pytest.param(m, id=name, marks=[] if name in second_tier else pytest.mark.attack) for name, m in moments]


@pytest.mark.parametrize(
    "moment", parametrized(MOMENTS.items(), ("before a checkpoint", "in a checkpoint", "when all is done"))
)
def test_who_was_suspended_leaves_what_its_successor_finished(moment, undisturbed, tmp_path):
    left, after, said, code = taken_over(tmp_path / "outputs", moment)
    assert after == left
    (whole,) = (undisturbed / "models").iterdir()
    for name in ("ema.safetensors", "config.yaml"):
        assert after[name] == content(whole)[name]
    assert code == 1
    assert re.search(r"^error: the training of \S+ was taken over by another process", said, re.MULTILINE), said
    assert "Traceback" not in said


REPLACING = {
    "before the old model goes": ("os.rename", rf"{MODEL} -> .*\.old\.\w+$", 1),
    "when it is gone": ("os.rename", rf"\.fresh\.\w+ -> .*{MODEL}$", 2),  # the first time, it was still there
}


@pytest.mark.parametrize("moment", parametrized(REPLACING.items(), ("before the old model goes",)))
def test_who_was_suspended_while_it_replaced_a_model_leaves_what_its_successor_finished(moment, undisturbed, tmp_path):
    """The successor finds the new model done. The sleeper may notice that it slept, or go on with that model."""
    shutil.copytree(undisturbed, tmp_path / "outputs")
    left, after, said, code = taken_over(tmp_path / "outputs", moment, "fresh=true")
    assert {name: after[name] for name in left} == left  # a solution may be added
    assert {"DONE", "ema.safetensors"} < set(left)
    assert code in (0, 1)
    assert "Traceback" not in said

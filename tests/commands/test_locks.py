"""Processes that need the same model."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from filelock import SoftFileLease
from shell import ENVIRONMENT, ROOT
from test_survival import PATIENCE, wait_for

from skipstone.store import locks


def test_two_processes_train_a_model_once(tmp_path):
    """Started together: the second says for whom it waits, and what the first leaves is fresh for both."""
    processes = [tiny.Process(tmp_path / f"said{i}", tmp_path, steps=100, fresh=True) for i in range(2)]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0]
    assert all(process.lines()[-1] == "done" for process in processes)
    (trains,) = (process for process in processes if "trains" in process.lines())
    (waits,) = (line for process in processes for line in process.lines() if line.startswith("waiting"))
    assert f"waiting for the training of {tmp_path}/models/tiny-" in waits
    assert f"process {trains.pid}" in waits
    (folder,) = (tmp_path / "models").iterdir()  # no lock is left, nor anything else
    assert (folder / "DONE").is_file()


def test_who_waits_takes_over_from_one_that_was_killed(tmp_path):
    def begin(i):
        return tiny.Process(tmp_path / f"said{i}", tmp_path, steps=100, checkpoint_every_n_steps=10)

    first = begin(0)
    wait_for(lambda: list(tmp_path.glob("models/*/last.ckpt")))
    second = begin(1)
    (said,) = wait_for(second.lines)[:1]
    assert f"process {first.pid}, since 2" in said
    first.kill()
    assert (first.wait(PATIENCE), second.wait(PATIENCE)) == (-signal.SIGKILL, 0)
    assert any("resuming the training" in line for line in second.lines())
    (folder,) = (tmp_path / "models").iterdir()
    assert (folder / "DONE").is_file()


def test_two_commands_started_together_train_once_and_leave_two_reports(tmp_path):
    """Whole processes; the one that waits holds no processor."""
    arguments = ["train.py", "experiment=smoke", "logger=none", f"paths.outputs={tmp_path}", "trainer.max_steps=150"]
    said = [(tmp_path / f"said{i}") for i in range(2)]
    processes = [
        subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=ENVIRONMENT, stdout=path.open("w"))
        for path in said
    ]

    waiting = f"waiting for the training of {tmp_path}/models/"
    (waits,) = wait_for(lambda: [i for i in range(2) if waiting in said[i].read_text()])
    waiter, trainer = processes[waits].pid, processes[1 - waits].pid
    before = {process: processor_seconds(process) for process in (waiter, trainer)}
    wait_for(lambda: processor_seconds(trainer) - before[trainer] > 1.0)
    assert processor_seconds(waiter) - before[waiter] < 0.2
    assert [process.wait(PATIENCE) for process in processes] == [0, 0]
    assert "".join(path.read_text() for path in said).count("] - trained in ") == 1
    assert len(list(tmp_path.glob("runs/*/*/report.html"))) == 2
    (model,) = (tmp_path / "models").iterdir()
    assert (model / "DONE").is_file()


def test_the_time_is_the_present_holders_not_that_of_one_before(tmp_path):
    """Also where it has written nothing yet."""
    lock = tmp_path / "lock"

    def said():
        began = lambda claim: next(tmp_path.glob(claim), None)  # noqa: E731
        return locks._holder(SoftFileLease(lock, lease_duration=locks.LEASE), began)

    with locks.held(lock, "the work") as before:
        (tmp_path / before).touch()
        os.utime(tmp_path / before, (0, 0))
        assert "since 1970" in said()
    with locks.held(lock, "the work") as claim:
        assert said().endswith(f"process {os.getpid()}")
        (tmp_path / claim).touch()
        assert f"process {os.getpid()}, since {time.strftime('%Y-%m-%d')}" in said()


def processor_seconds(process):
    """What it has used so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Holds the lock argv[1], as a host of the name argv[2], until it is killed. `stop` means: give no more signs of life.
HOLDER = """
import socket, sys, time
from pathlib import Path
socket.gethostname = lambda: sys.argv[2]
from skipstone.store import locks
locks.LEASE = 3.0
path = Path(sys.argv[1])
with locks.held(path, "the work"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock"), "elsewhere"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n", process.stderr.read()
    yield process
    process.kill()
    process.communicate()


def test_one_on_another_host_counts_as_dead_when_it_gives_no_sign_of_life(holder, tmp_path, monkeypatch, caplog):
    """Its process id means nothing here, so it is left alone as long as it touches its file, and no longer."""
    monkeypatch.setattr(locks, "LEASE", 3.0)
    monkeypatch.setattr(locks, "_REMIND", 5.0)
    caplog.set_level("INFO")
    held = []

    def kill_later(*_):
        held.append(time.monotonic())
        holder.kill()

    signal.signal(signal.SIGALRM, kill_later)
    signal.alarm(7)
    with locks.held(tmp_path / "lock", "the work"):
        waited = time.monotonic() - held[0]
    assert 1.0 < waited < 60.0
    assert len([line for line in caplog.messages if "host elsewhere" in line]) >= 2  # said again while it waits
    assert not (tmp_path / "lock").exists()


def test_one_that_was_suspended_for_too_long_stops(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "LEASE", 3.0)
    holder.send_signal(signal.SIGSTOP)
    with locks.held(tmp_path / "lock", "the work"):
        holder.send_signal(signal.SIGCONT)
        _, said = holder.communicate(timeout=PATIENCE)
    assert "the work was taken over by another process" in said
    assert holder.returncode == 1

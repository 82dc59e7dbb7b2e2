"""trainer.devices=2 as a user types it: two processes on the CPU, one model, one report; signals reach both."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file
from shell import ENVIRONMENT, ROOT, run

TWO = ("trainer.devices=2", "trainer.accelerator=cpu", "logger=none", "trainer.enable_progress_bar=false")
FORTY = ("trainer.max_steps=40", "training.weighting=none")  # steps of L_simple, in which roundings grow least
PATIENCE = 120.0  # seconds, on a busy machine


def start(*words):
    """The command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "train.py", "experiment=smoke", *TWO, *words],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ranks(command):
    """The process ids of the ranks that a command has started."""
    found = subprocess.run(
        ["pgrep", "-P", str(command.pid), "-f", "multiprocessing.spawn"], capture_output=True, text=True
    )
    return [int(pid) for pid in found.stdout.split()]


def wait_for(there):
    deadline = time.monotonic() + PATIENCE
    while not (found := there()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return found


def alive(pid):
    try:
        return "State:\tZ" not in open(f"/proc/{pid}/status").read()
    except OSError:
        return False


def weights(outputs):
    (path,) = outputs.glob("models/*/ema.safetensors")
    return load_file(path)


def difference(a, b):
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights of one device and of two, after the same 40 steps."""
    stored = []
    for words in ((), TWO[:2]):
        outputs = tmp_path_factory.mktemp("outputs")
        done = run(*words, "logger=none", *FORTY, f"paths.outputs={outputs}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Look next at") == 1
        assert "`" not in done.stdout + done.stderr  # Lightning's words, which each rank would print
        assert "GLOBAL_RANK" not in done.stdout + done.stderr
        assert len(list(outputs.glob("runs/*/*/report.html"))) == 1
        assert len(re.findall(r"training \S+ for 40 steps", done.stdout + done.stderr)) == 1
        stored.append((weights(outputs), [path.name for path in outputs.glob("models/*-*") if path.is_dir()]))
    return stored


def test_two_devices_train_what_one_does(undisturbed):
    (one, key), (two, same_key) = undisturbed
    assert key == same_key
    assert difference(one, two) < 2e-6


def test_jobs_of_a_sweep_use_two_devices_one_after_the_other(tmp_path):
    done = run("-m", *TWO, "seed=0,1", f"paths.outputs={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("models/*/DONE"))) == 2


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGINT to the group"])
def test_a_signal_reaches_every_rank_and_the_same_command_goes_on(how, undisturbed, tmp_path):
    words = (*FORTY, "trainer.checkpoint_every_n_steps=1000", f"paths.outputs={tmp_path}")
    command = start(*words, "trainer.val_check_interval=1.0")
    both = wait_for(lambda: len(ranks(command)) == 2 and ranks(command))
    wait_for(lambda: list(tmp_path.glob("models/*/metrics.csv")))
    number = signal.Signals[how.split()[0]]
    (os.killpg if "group" in how else os.kill)(command.pid, number)
    told, _ = command.communicate(timeout=PATIENCE)
    if command.returncode == 0:
        pytest.skip("the training was over before the signal came")
    assert command.returncode == 130, told
    assert "Traceback" not in told
    assert "interrupted; the same command continues" in told
    assert not any(alive(pid) for pid in both)
    done = run(*TWO, *words)
    assert done.returncode == 0, done.stderr
    assert difference(weights(tmp_path), undisturbed[1][0]) == 0


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGINT to the group"])
def test_a_signal_while_ranks_start_ends_them_too(how, tmp_path):
    command = start("trainer.max_steps=100000", f"paths.outputs={tmp_path}")
    began = wait_for(lambda: ranks(command))
    number = signal.Signals[how.split()[0]]
    (os.killpg if "group" in how else os.kill)(command.pid, number)
    try:
        told, _ = command.communicate(timeout=20)  # less than it takes until ranks that hear nothing are ended
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
    assert command.returncode == 130, told
    assert "interrupted; the same command continues" in told
    wait_for(lambda: not any(alive(pid) for pid in began))
    assert not ranks(command)


def test_a_rank_that_is_killed_ends_the_command_in_one_sentence(undisturbed, tmp_path):
    words = (*FORTY, "trainer.checkpoint_every_n_steps=2", f"paths.outputs={tmp_path}")
    command = start(*words)
    both = wait_for(lambda: len(ranks(command)) == 2 and ranks(command))
    wait_for(lambda: list(tmp_path.glob("models/*/last.ckpt")))
    os.kill(both[1], signal.SIGKILL)
    told, _ = command.communicate(timeout=PATIENCE)
    assert command.returncode == 1, told
    assert "Traceback" not in told.split("error:")[-1]
    assert re.search(r"error: the process of device \d was killed, .* goes on from the last checkpoint", told), told
    assert not any(alive(pid) for pid in both)
    done = run(*TWO, *words)
    assert done.returncode == 0, done.stderr
    assert difference(weights(tmp_path), undisturbed[1][0]) == 0


def test_ranks_end_with_their_parent(tmp_path):
    command = start("trainer.max_steps=100000", f"paths.outputs={tmp_path}")
    both = wait_for(lambda: len(ranks(command)) == 2 and ranks(command))
    wait_for(lambda: list(tmp_path.glob("models/*/last.ckpt")))
    command.kill()
    wait_for(lambda: not any(alive(pid) for pid in both))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("trainer.devices=0", "trainer.devices=0 must be a number of processes"),
        ("trainer.devices=[0,1]", r"trainer.devices=\[0, 1\] must be a number of processes"),
        ("trainer.devices=many", "trainer.devices=many must be a number of processes"),
        ("trainer.strategy=ddp", "trainer.strategy=ddp is not supported"),
        ("+trainer.num_nodes=2", "trainer.num_nodes=2 is not supported"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(word, sentence, tmp_path):
    done = run("trainer.accelerator=cpu", "logger=none", word, f"paths.outputs={tmp_path}")
    assert done.returncode == 1
    assert re.search(f"error: {sentence}", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("models/*"))

"""SIGTERM and then Ctrl-C, as a cluster and an impatient user send them, to a training that is under way."""

import os
import re
import shlex
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from forks import FORKS, become
from test_survival import PATIENCE, wait_for

TRAIN = "train.py experiment=smoke logger=none metrics=none trainer.max_steps=100000 hydra.run.dir=outputs/run"
SENTENCE = "interrupted; the same command continues from the last checkpoint, or in a sweep resume=<its folder>"


def step(room: Path) -> int:
    (checkpoint,) = room.glob("outputs/models/*/last.ckpt")
    return torch.load(checkpoint, weights_only=True)["global_step"]


def told(room: Path, signals: list[signal.Signals], pause: float) -> str:
    """What the command says when it gets these signals, with a pause after each, once it has saved a further step."""
    process = FORKS.Process(target=become, args=(shlex.split(TRAIN), room, [room / "out", room / "err"]))
    before = set(room.glob("outputs/models/*/*.ckpt")) and step(room)
    process.start()
    wait_for(lambda: list(room.glob("outputs/models/*/last.ckpt")) and step(room) > (before or 0))
    for number in signals:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(process.pid, number)
        time.sleep(pause)
    process.join(PATIENCE)
    assert process.exitcode == 130
    return (room / "err").read_text() + (room / "out").read_text()


def goes_on(room: Path, signals: list[signal.Signals], pauses: list[float]) -> None:
    steps = [0]
    for pause in pauses:
        said = told(room, signals, pause)
        assert "Traceback" not in said, f"{pause}: {said}"
        assert said.count("interrupted") == said.count(SENTENCE) == 1, f"{pause}: {said}"
        if steps[-1]:
            assert re.search(rf"resuming the training in \S+ after step {steps[-1]}", re.sub(r"\n\s*", " ", said)), said
        assert step(room) > steps[-1]
        steps.append(step(room))
        assert not list(room.rglob("outputs/**/.*.tmp"))
        assert not list(room.rglob("outputs/**/*.lock"))


def test_sigterm_and_then_ctrl_c_saves_and_says_one_sentence(tmp_path):
    goes_on(tmp_path, [signal.SIGTERM, signal.SIGINT], [0.0, 0.05])


@pytest.mark.attack
@pytest.mark.parametrize("pause", [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0])
@pytest.mark.parametrize(
    "signals", [[signal.SIGTERM, signal.SIGINT], [signal.SIGINT] * 3, [signal.SIGTERM] * 2], ids=str
)
def test_so_it_does_after_any_pause(signals, pause, tmp_path):
    goes_on(tmp_path, signals, [pause, pause])

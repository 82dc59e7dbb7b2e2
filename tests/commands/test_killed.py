"""SIGKILL on validation, on publishing the finished model and on writing the report, before any of their file accesses.

The same command again ends as if nothing had been: the same weights bit for bit, a whole report, nothing left over.
"""

import csv
import os
import random
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
from forks import FORKS, become
from test_survival import PATIENCE

from skipstone.evaluation.evaluate import CLOCK

TRAIN = shlex.split("train.py experiment=smoke logger=none metrics.classifier=false hydra.run.dir=outputs/run")
MODEL = r"models/mnist5k-\w{10}"
PHASES = {
    "validation": r"outputs/run/training|statistics/.*held_out-10-|metrics.csv -> a",
    "publishing": rf"{MODEL}\.\w+/\.?(ema\.safetensors|DONE)|{MODEL}\.\w+ -> |{MODEL}\.lock -> -1",
    "report": rf"outputs/run/(samples|\.?(evaluation|curves|contact|training_curve|report|results))|{MODEL}/\.?fine",
}


def _killed(room: Path, fits: str, moment: int) -> None:
    """The command, which dies the n-th time that it is about to write, rename, remove or make what fits."""
    left, log = [moment], (room / "accesses").open("w", buffering=1)

    def watch(what, arguments):
        changes = what in ("os.rename", "os.remove", "os.mkdir") or (what == "open" and arguments[1] not in ("r", "rb"))
        text = " -> ".join(map(str, arguments[:2])) if changes else ""
        if "outputs" in text:
            log.write(f"{text}\n")
            left[0] -= re.search(fits, text) is not None
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    become(TRAIN, room, [room / "out", room / "err"])


def run(room: Path, fits: str = "(?!)", moment: int = 1) -> int:
    """How the command ends in its room, which is its working folder; without a moment it is left alone."""
    room.mkdir(exist_ok=True)
    process = FORKS.Process(target=_killed, args=(room, fits, moment))
    process.start()
    process.join(PATIENCE)
    assert "Traceback" not in (room / "err").read_text()
    return process.exitcode


def rows(room: Path) -> list[dict[str, str]]:
    with (room / "outputs" / "run" / "evaluation.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in CLOCK} for row in csv.DictReader(file)]


def names(room: Path) -> set[str]:
    return {str(path.relative_to(room)) for path in room.glob("outputs/**/*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A room in which nothing was killed."""
    room = tmp_path_factory.mktemp("whole") / "room"
    assert run(room) == 0
    return room


def moments(whole: Path, fits: str) -> int:
    return sum(re.search(fits, text) is not None for text in (whole / "accesses").read_text().splitlines())


def assert_same(room: Path, whole: Path) -> None:
    (weights,), (expected,) = (list(each.glob("outputs/models/*/ema.safetensors")) for each in (room, whole))
    assert weights.read_bytes() == expected.read_bytes()
    assert rows(room) == rows(whole)
    assert names(room) == names(whole)
    assert (room / "outputs" / "run" / "report.html").read_text().rstrip().endswith("</html>")


def killed_thrice(room: Path, whole: Path, dice: random.Random) -> None:
    """Once in each phase of one training."""
    for phase, fits in PHASES.items():
        # what a killed process has done already is not done again
        moment = dice.randint(1, moments(whole, fits) // 2)
        assert run(room, fits, moment) == -signal.SIGKILL, f"{phase}, moment {moment}"
    assert run(room) == 0
    assert_same(room, whole)


def test_a_kill_in_each_phase_leaves_the_same_weights_and_a_whole_report(whole, tmp_path):
    killed_thrice(tmp_path / "room", whole, random.Random(14))


@pytest.mark.attack
@pytest.mark.parametrize("moment", range(1, 76))
@pytest.mark.parametrize("phase", PHASES)
def test_so_does_a_kill_at_every_moment_of_a_phase(phase, moment, whole, tmp_path):
    if moment > moments(whole, PHASES[phase]):
        pytest.skip("it is over by then")
    room = tmp_path / "room"
    assert run(room, PHASES[phase], moment) == -signal.SIGKILL
    assert run(room) == 0, (room / "err").read_text()
    assert_same(room, whole)


@pytest.mark.attack
@pytest.mark.parametrize("seed", range(1, 11))
def test_so_do_ten_times_three_kills(seed, whole, tmp_path):
    killed_thrice(tmp_path / "room", whole, random.Random(seed))

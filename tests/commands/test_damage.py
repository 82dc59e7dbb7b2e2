"""Random damage to what a run left: a sentence, a repair, or the same numbers; never other numbers."""

import csv
import random
import re
import shlex
from pathlib import Path

import pytest
from rooms import Room
from test_bad_inputs import ERROR, copied, forked, template  # noqa: F401, a fixture

TRAIN = "train.py experiment=smoke logger=none hydra.run.dir=outputs/again"
EVALUATE = "scripts/evaluate.py run={key} tau=3 evaluation.taus=[2] logger=none hydra.run.dir=outputs/again out=again"
REPORT = "scripts/report.py outputs/sweeps/past"
CLOCK = ("seconds", "images_per_second")
NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")
NAMES = ("cell", "model")  # which follow from how many jobs have results


def truncated(path: Path, dice: random.Random, others: list[Path]) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: dice.randrange(len(content) + 1)])


def flipped(path: Path, dice: random.Random, others: list[Path]) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(min(len(content), dice.choice([1, 1, 8, 100]))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def swapped(path: Path, dice: random.Random, others: list[Path]) -> None:
    """With a file of the same name, where there is one: it fits best."""
    alike = [other for other in others if other.suffix == path.suffix and other != path]
    other = dice.choice(alike or others)
    here, there = path.read_bytes(), other.read_bytes()
    path.write_bytes(there)
    other.write_bytes(here)


def deleted(path: Path, dice: random.Random, others: list[Path]) -> None:
    path.unlink()


DAMAGE = (truncated, flipped, swapped, deleted)


def rows(path: Path) -> list[dict[str, str]]:
    """The numbers of an evaluation.csv, without what differs from time to time."""
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in (*CLOCK, *NAMES)} for row in csv.DictReader(file)]


def same(row: dict[str, str], other: dict[str, str]) -> bool:
    """But for the last bits: a fine solution that is solved for fewer samples is rounded otherwise."""
    return row.keys() == other.keys() and all(
        value == other[name]
        or (NUMBER.fullmatch(value) and float(value) == pytest.approx(float(other[name]), rel=1e-4))
        for name, value in row.items()
    )


def table(room: Room, command: str) -> list[dict[str, str]]:
    where = {TRAIN: "outputs/again", EVALUATE: "again", REPORT: "outputs/sweeps/past"}[command]
    return rows(room.path / where / "evaluation.csv")


def run(room: Room, command: str):
    return forked(shlex.split(command.format(key=room.key)), room.path, {})


@pytest.fixture(scope="module")
def good(template, tmp_path_factory) -> tuple[Room, dict[str, list[dict[str, str]]]]:  # noqa: F811
    """A room in which everything is kept that its commands keep, and what they say of it."""
    room = copied(template, tmp_path_factory.mktemp("good"))
    expected = {}
    for command in (TRAIN, EVALUATE, REPORT):
        done = run(room, command)
        assert done.returncode == 0, done.stderr
        expected[command] = table(room, command)
    for left in ("outputs/again", "again"):
        (room.path / left).rename(room.path / f"{left}-before")
    return room, expected


def tried(case: int, good, tmp_path: Path) -> str:
    room, dice = copied(good[0], tmp_path), random.Random(case)
    files = sorted(path for path in room.path.rglob("outputs/**/*") if path.is_file() and path.stat().st_size)
    kinds = sorted({path.suffix for path in files})  # of pictures there are most, and of weights few
    kind = dice.choice(kinds)
    path, how = dice.choice([path for path in files if path.suffix == kind]), DAMAGE[case % len(DAMAGE)]
    command = REPORT if path.is_relative_to(room.sweep) else dice.choice([TRAIN, EVALUATE])
    what = f"{case}: {how.__name__} {path.relative_to(room.path)}, {command}"
    how(path, dice, files)
    done = run(room, command)
    said = [found[1] for line in done.stderr.splitlines() if (found := ERROR.match(line))]
    assert "Traceback" not in done.stderr + done.stdout, f"{what}\n{done.stderr}"
    assert "--- Logging error ---" not in done.stderr, f"{what}\n{done.stderr}"
    if done.returncode == 1:
        assert len(said) == 1, f"{what}\n{done.stderr}"
        assert not re.search(r"codec|Errno", said[0]), f"{what}\n{done.stderr}"
        return f"{what}: {said[0]}"
    assert done.returncode == 0, f"{what}\n{done.returncode} {done.stderr}"
    found, expected = table(room, command), good[1][command]
    whole = len(found) == len(expected) or command == REPORT  # of a sweep, jobs may be named as missing
    other = [row for row in found if not any(same(row, good_row) for good_row in expected)]
    assert whole, what
    assert not other, f"{what}: {other[:1]}"
    return f"{what}: the same numbers"


@pytest.mark.parametrize("case", range(20))
def test_it_is_a_sentence_a_repair_or_the_same_numbers(case, good, tmp_path):
    tried(case, good, tmp_path)


@pytest.mark.attack
@pytest.mark.parametrize("case", range(20, 200))
def test_so_it_is_of_200(case, good, tmp_path):
    print(tried(case, good, tmp_path))

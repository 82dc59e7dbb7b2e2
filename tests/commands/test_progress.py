"""Whoever waits sees how far it is: a bar in a terminal, lines where output is piped."""

import os
import pty
import re
import sys

import pytest
from shell import ENVIRONMENT, ROOT, python

WORDS = ["experiment=smoke", "logger=none", "trainer.max_steps=30", "metrics.classifier_steps=30"]
# A line for every step, so that how fast the machine is does not matter
OFTEN = """
import sys, skipstone.progress as progress
from skipstone.__main__ import run
progress._FIRST = progress._NEXT = 0
run(sys.argv.pop(1))
"""
STAGES = {
    "reading images": ("40", "files"),
    "training the classifier": ("30", "steps"),
    "training": ("30", "steps"),
    "the fine solution": (r"\d+", "evaluations"),
    r"sampling \d+ cells of 8 images": (r"\d+", "evaluations"),
    "measuring": (r"\d+", "cells"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("progress")
    images = (
        "import os; from PIL import Image; os.makedirs('a'); os.makedirs('b');"
        "[Image.effect_noise((300, 300), 60 + i).save(f'{\"ab\"[i % 2]}/{i}.png') for i in range(40)]"
    )
    (folder / "photos").mkdir()
    assert python("-c", images, cwd=folder / "photos").returncode == 0
    return folder


def words(folder, name):
    data = ["dataset=folder", f"dataset.root={folder / 'photos'}", "dataset.image_size=28", "dataset.held_out=0.3"]
    few = ["evaluation.images=8", "evaluation.training.images=8", f"paths.outputs={folder / name}"]
    return [*WORDS, *data, *few, "metrics.features=4"]


def test_piped_every_stage_has_lines(folder):
    done = python("-c", OFTEN, "train", *words(folder, "piped"), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for stage, (total, unit) in STAGES.items():
        assert re.search(rf"(?m)[\] ]{stage}: \d+ of {total} {unit}, \d+ s left", done.stdout), stage
    assert re.search(r"training: \d+ of 30 steps, \d+ s left, train/loss \d", done.stdout)
    assert "\x1b[" not in done.stdout


def test_in_a_terminal_every_long_stage_has_a_bar_that_counts(folder):
    seen = []

    def read(terminal):
        seen.append(os.read(terminal, 65536))
        return seen[-1]

    command = ["env", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), "COLUMNS=150", "TERM=xterm"]
    code = pty.spawn([*command, sys.executable, str(ROOT / "train.py"), *words(folder, "terminal")], read)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(seen).decode(errors="replace"))
    assert code == 0, text
    for stage in ("training the classifier", "training"):
        assert re.search(rf"(?m)[\r\n]{stage} [━╸╺ ]+ +\d+/30 +steps \d+:\d\d:\d\d", text), text[-3000:]
    assert "Epoch" not in text

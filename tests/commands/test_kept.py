"""What lies in outputs/ and is not as it was: made again, or refused, in a sentence; the numbers stay."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from rooms import Room
from safetensors.torch import load_file, save_file
from shell import ENVIRONMENT, ROOT, python
from test_bad_inputs import copied, forked, template  # noqa: F401, a fixture
from test_damage import TRAIN, rows, same

from skipstone.store import tensors

WORDS = TRAIN.split()


@pytest.fixture
def room(template, tmp_path) -> Room:  # noqa: F811
    return copied(template, tmp_path)


def numbers(room, name="first"):
    done = forked([*WORDS[:-1], f"hydra.run.dir=outputs/{name}"], room.path, {})
    assert done.returncode == 0, done.stderr
    return rows(room.path / "outputs" / name / "evaluation.csv"), done.stdout + done.stderr


@pytest.mark.parametrize(
    "kept", ["statistics/*", "classifiers/*/*.safetensors", "models/*/fine-*.safetensors", "models/*/cells/*"]
)
@pytest.mark.parametrize("unmarked", [False, True], ids=["the old digest", "none"])
def test_scaled_numbers_are_made_again(room, kept, unmarked):
    """Also where a file that was written by other means has no digest at all."""
    before, _ = numbers(room)
    paths = list((room.path / "outputs").glob(kept))
    written = {path: path.read_bytes() for path in paths}
    assert paths
    for path in paths:
        whole = tensors.header(path)
        scaled = {name: x * 1.05 if x.is_floating_point() else x for name, x in load_file(path).items()}
        save_file(scaled, path, {} if unmarked else {"about": json.dumps(whole.about)})
    after, said = numbers(room, "second")
    assert len(after) == len(before)
    assert all(same(*pair) for pair in zip(after, before, strict=True))
    assert unmarked or "is damaged: what it held is made again" in said
    assert any(
        path.read_bytes() == content for path, content in written.items()
    )  # some other command's stay as they are


def test_not_finite_is_made_again(room):
    numbers(room)
    for path in (room.path / "outputs" / "statistics").iterdir():
        kept = tensors.read(path)
        tensors.write({"features": kept.tensors["features"] * float("nan")}, path, kept.about)
    after, said = numbers(room, "second")
    assert "is damaged: what it held is made again" in said
    assert all(row["fd_random"] not in ("", "nan") for row in after)


@pytest.mark.parametrize("word", [b"dataset=folder dataset.root=ph\xff", b"tau=\xff", b"paths.outputs=o\xfe"])
def test_a_word_that_is_not_utf8_is_named(tmp_path, word):
    arguments = [os.fsencode(ROOT / "train.py"), b"experiment=smoke", *word.split()]
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [os.fsencode(sys.executable), *arguments], cwd=tmp_path, capture_output=True, env=environment, timeout=120
    )
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert line.startswith("error: ")
    assert line.endswith("is not UTF-8: rename that file or folder.")
    assert r"\udcf" in line
    assert not list(tmp_path.iterdir())


def test_a_working_folder_that_is_not_utf8_is_named(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/w\xff")
    os.mkdir(folder)
    done = python(ROOT / "train.py", "experiment=smoke", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert r"w\udcff is not UTF-8: rename that file or folder." in done.stderr


def test_a_models_folder_that_is_deleted_under_its_training_is_named(tmp_path):
    words = ["train.py", "experiment=smoke", "logger=none", "trainer.max_steps=1000000"]
    words += ["trainer.checkpoint_every_n_steps=5", "trainer.val_check_interval=100000"]
    with (tmp_path / "err").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, ROOT / words[0], *words[1:]], cwd=tmp_path, stderr=errors, stdout=errors, env=ENVIRONMENT
        )
        deadline = time.monotonic() + 120
        while not (found := list(tmp_path.glob("outputs/models/*/last.ckpt"))) and time.monotonic() < deadline:
            time.sleep(0.1)
        shutil.rmtree(found[0].parent)
        process.wait(120)
    said = (tmp_path / "err").read_text()
    assert process.returncode == 1
    assert "Traceback" not in said
    assert "[Errno" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"outputs/models/{found[0].parent.name}" in line
    assert "it was removed meanwhile, or a link leads nowhere: put it back or remove the link" in line


def test_another_tau_samples_what_is_new_and_nothing_else(room):
    before, _ = numbers(room)
    cells = (room.path / "outputs" / "models").glob("*/cells/*")
    written = {path: path.stat().st_mtime_ns for path in cells}
    assert len(written) >= len(before)
    done = forked([*WORDS[:-1], "tau=7", "hydra.run.dir=outputs/other"], room.path, {})
    assert done.returncode == 0, done.stderr
    after = {path: path.stat().st_mtime_ns for path in (room.path / "outputs" / "models").glob("*/cells/*")}
    assert len(after) == len(written) + 1
    assert after | written == after
    found = rows(room.path / "outputs" / "other" / "evaluation.csv")
    assert all(any(same(row, other) for other in found) for row in before)

"""Checkpoint files that are damaged, swapped or malicious."""

import errno
import os
import pickle
import random
import shutil
import zipfile

import pytest
import tiny
import torch

from skipstone import durable
from skipstone.training import checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training's folder: last.ckpt is of step 6, previous.ckpt of step 4."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    tiny.train(folder)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "model")


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_two_checkpoints_are_kept_and_the_last_is_taken(folder):
    assert [step_of(folder / name) for name in ("last.ckpt", "previous.ckpt")] == [6, 4]
    path, past = checkpoints.latest(folder, "model")
    assert (path.name, past["global_step"]) == ("last.ckpt", 6)
    assert checkpoints.latest(folder / "empty", "model") is None


def cut(path, chance):
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def flip(path, chance):
    """One bit of the numbers themselves; torch would read it as if nothing were."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + largest.file_size // 2] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def overwrite(path, chance):
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content) - 2000)
    content[at : at + 2000] = chance.randbytes(2000)
    path.write_bytes(content)


def empty(path, chance):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, overwrite, empty], ids=lambda damage: damage.__name__)
def test_a_damaged_one_is_passed_over_and_the_one_before_taken(damage, folder, caplog):
    chance, content = random.Random(0), (folder / "last.ckpt").read_bytes()
    for _ in range(10):
        (folder / "last.ckpt").write_bytes(content)
        damage(folder / "last.ckpt", chance)
        path, past = checkpoints.latest(folder, "model")
        assert (path.name, past["global_step"]) == ("previous.ckpt", 4)
        assert not (folder / "last.ckpt").exists()
    assert "last.ckpt is damaged, so the training goes on from" in caplog.text


def test_a_training_goes_on_from_the_one_before_to_the_same_end(folder):
    before = torch.load(folder / "last.ckpt", weights_only=True)
    cut(folder / "last.ckpt", random.Random(1))
    tiny.train(folder)
    after = torch.load(folder / "last.ckpt", weights_only=True)
    assert all(torch.equal(before["state_dict"][name], value) for name, value in after["state_dict"].items())


def test_when_none_can_be_read_both_are_named(folder):
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"last\.ckpt and \S+previous\.ckpt cannot be read: remove them to train from"):
        tiny.train(folder)


def test_one_of_another_model_or_version_is_refused(folder):
    with pytest.raises(ValueError, match=r"last\.ckpt is of another model, model: remove it to train other"):
        checkpoints.latest(folder, "other")
    torch.save({"state_dict": {}}, folder / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is of another version: remove it"):
        checkpoints.latest(folder, "model")


class Malicious:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_not_run(folder, tmp_path):
    past = torch.load(folder / "last.ckpt", weights_only=True)
    torch.save({**past, "extra": Malicious(tmp_path / "ran")}, folder / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is not opened, .*code that it asks for would be run"):
        tiny.train(folder)
    assert not (tmp_path / "ran").exists()
    torch.load(folder / "last.ckpt", weights_only=False)  # the test can fail: opened carelessly, it runs
    assert (tmp_path / "ran").is_dir()


def test_a_bare_pickle_in_place_of_a_checkpoint_is_not_opened_either(folder, tmp_path):
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    with pytest.raises(ValueError, match="cannot be read"):
        tiny.train(folder)
    assert not (tmp_path / "ran").exists()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path, previous = tmp_path / "file", tmp_path / "before"
    for content in ("one", "two"):
        with durable.replacing(path, previous) as temporary:
            temporary.write_text(content)
    assert (path.read_text(), previous.read_text()) == ("two", "one")

    def fill_the_disk():
        with durable.replacing(path, previous) as temporary:
            temporary.write_text("thr")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as failed:
        fill_the_disk()
    assert failed.value.filename == str(path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file": "two", "before": "one"}

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
from torch import Tensor

from skipstone.store import files
from skipstone.training.checkpoints import resume


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training's folder: last.ckpt is of step 6, previous.ckpt of step 4."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    tiny.train(folder)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "model")


def latest(folder, model="model"):
    return resume.latest(folder, model, tiny.build())


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


def test_two_checkpoints_are_kept_and_the_last_is_taken(folder):
    assert [step_of(folder / name) for name in ("last.ckpt", "previous.ckpt")] == [6, 4]
    path, step, _ = latest(folder)
    assert (path.name, step) == ("last.ckpt", 6)
    assert latest(folder / "empty") is None


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
        left = (folder / "last.ckpt").read_bytes()
        path, step, _ = latest(folder)
        assert (path.name, step) == ("previous.ckpt", 4)
        assert not (folder / "last.ckpt").exists()
        assert left in [kept.read_bytes() for kept in folder.glob("damaged-*.ckpt")]
    assert "last.ckpt cannot be resumed from, so it is now damaged-" in caplog.text


def test_one_that_memory_was_too_short_for_is_lost_by_nobody(folder, monkeypatch):
    content, load = (folder / "last.ckpt").read_bytes(), torch.load

    def short(path, **how):
        if path.name == "last.ckpt":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return load(path, **how)

    monkeypatch.setattr(torch, "load", short)
    assert latest(folder)[0].name == "previous.ckpt"
    (kept,) = folder.glob("damaged-*.ckpt")
    assert kept.read_bytes() == content


def changed(*way):
    """A change of the entry at the end of `way`; the last of it is what it becomes of the old one."""

    def change(past):
        *outer, name, become = way
        for step in outer:
            past = past[step]
        past[name] = become(past[name])

    return change


MISFITS = {
    "weights of another size": changed("state_dict", "net.time.0.weight", lambda weight: weight[:1]),
    "weights of another type": changed("state_dict", "net.time.0.weight", Tensor.double),
    "weights in words": changed("state_dict", "net.time.0.weight", str),
    "fewer weights": changed("state_dict", lambda weights: dict(list(weights.items())[1:])),
    "raw weights of another size": changed("current_model_state", "net.time.0.weight", lambda weight: weight[:1]),
    "moments of another size": changed("optimizer_states", 0, "state", 0, "exp_avg", lambda moment: moment[:1]),
    "moments of more weights": changed("optimizer_states", 0, "state", lambda state: {**state, 999: state[0]}),
    "no optimiser": changed("optimizer_states", lambda _: None),
    "steps in words": changed("global_step", str),
    "a negative step": changed("global_step", lambda step: -step),
    "a curve of numbers": changed("curve", lambda _: [1, 2]),
    "loops as a list": changed("loops", lambda _: []),
    "no loops": changed("loops", lambda _: {}),
}


@pytest.mark.parametrize("change", MISFITS.values(), ids=MISFITS)
def test_one_that_does_not_fit_is_passed_over_and_the_one_before_taken(change, folder):
    past = torch.load(folder / "last.ckpt", weights_only=True)
    change(past)
    torch.save(past, folder / "last.ckpt")
    assert latest(folder)[0].name == "previous.ckpt"
    torch.save(past, folder / "previous.ckpt")
    with pytest.raises(ValueError, match=r"previous\.ckpt cannot be resumed from, .*: move it away"):
        latest(folder)


UNRESTORABLE = {
    "no state of the losses": changed("callbacks", "Survival", lambda _: {"best": "low"}),
    "no state of the averaging": changed("averaging_state", lambda _: {}),
    "other groups of weights": changed("optimizer_states", 0, "param_groups", lambda groups: groups * 2),
    "no schedule": changed("lr_schedulers", lambda _: 3),
}


@pytest.mark.parametrize("change", UNRESTORABLE.values(), ids=UNRESTORABLE)
def test_one_that_lightning_does_not_restore_is_named_and_kept(change, folder):
    past = torch.load(folder / "last.ckpt", weights_only=True)
    change(past)
    torch.save(past, folder / "last.ckpt")
    before = (folder / "last.ckpt").read_bytes()
    with pytest.raises(
        ValueError, match=r"(?s)last\.ckpt cannot be restored \(.*\): move it away to go on from previous"
    ):
        tiny.train(folder)
    assert (folder / "last.ckpt").read_bytes() == before


def test_a_training_goes_on_from_the_one_before_to_the_same_end(folder):
    before = torch.load(folder / "last.ckpt", weights_only=True)
    cut(folder / "last.ckpt", random.Random(1))
    tiny.train(folder)
    after = torch.load(folder / "last.ckpt", weights_only=True)
    assert all(torch.equal(before["state_dict"][name], value) for name, value in after["state_dict"].items())


def test_when_none_can_be_read_both_are_named(folder):
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes(b"no checkpoint")
    with pytest.raises(
        ValueError, match=r"last\.ckpt and \S+previous\.ckpt cannot be resumed from, .*: move them away"
    ):
        tiny.train(folder)


def test_one_of_another_model_or_version_is_refused(folder):
    with pytest.raises(ValueError, match=r"last\.ckpt is of another model, model: remove it to train other"):
        latest(folder, "other")
    torch.save({"state_dict": {}}, folder / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is of another version: remove it"):
        latest(folder)


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
    with pytest.raises(ValueError, match="cannot be resumed from"):
        tiny.train(folder)
    assert not (tmp_path / "ran").exists()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path, previous = tmp_path / "file", tmp_path / "before"
    for content in ("one", "two"):
        with files.replacing(path, previous) as temporary:
            temporary.write_text(content)
    assert (path.read_text(), previous.read_text()) == ("two", "one")

    def fill_the_disk():
        with files.replacing(path, previous) as temporary:
            temporary.write_text("thr")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as failed:
        fill_the_disk()
    assert failed.value.filename == str(path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file": "two", "before": "one"}

import threading
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

import skipstone
from skipstone import UNet
from skipstone.data import ImageSet
from skipstone.store import locks, models
from skipstone.store.key import model_key, weights_config

MODEL = {
    "_target_": "skipstone.UNet",
    "image_size": 8,
    "channels": 1,
    "base": 8,
    "multipliers": [1, 2],
    "attention": [4],
}
CONFIG = {
    "model": MODEL,
    "noise": {"_target_": "skipstone.noise.linear", "num_steps": 20},
    "training": {"batch_size": 4},
    "trainer": {
        "max_steps": 3,
        "precision": "32-true",
        "accelerator": "cpu",
        "devices": 1,
        "compile": False,
        "kernels": False,
    },
    "seed": 0,
    "tau": 5,
    "eta": 0.0,
}


def images(seed=0):
    pixels = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return ImageSet("random", pixels[:4], pixels[4:])


def weights_of(config, data):
    return weights_config(config, data.name, data.fingerprint, data.flip)


def build():
    return UNet(**{name: value for name, value in MODEL.items() if name != "_target_"})


def test_a_model_is_trained_once_and_anew_only_when_fresh(tmp_path):
    store = models.ModelStore(tmp_path)
    weights = weights_of(CONFIG, images())
    trained = []

    def train(folder):
        trained.append(folder)
        return build()

    folder = store.ensure(weights, train)
    assert store.ensure(weights, train) == folder
    assert len(trained) == 1
    first = load_file(folder / "ema.safetensors")
    assert store.ensure(weights, train, fresh=True) == folder
    assert len(trained) == 2
    assert not torch.equal(first["conv_in.weight"], load_file(folder / "ema.safetensors")["conv_in.weight"])
    assert [path.name for path in store.root.iterdir()] == [folder.name]


def test_what_one_purpose_wants_fresh_is_trained_once(tmp_path):
    """Also where another process has seen to it while this one waited, after having looked."""
    store, weights = models.ModelStore(tmp_path), weights_of(CONFIG, images())
    folder = store.ensure(weights, lambda _: build())
    assert store.ensure(weights, lambda _: build(), fresh=True, renewed=tmp_path / "first") == folder
    store.ensure(weights, die, fresh=True, renewed=tmp_path / "first")
    with pytest.raises(RuntimeError, match="no luck"):
        store.ensure(weights, die, fresh=True, renewed=tmp_path / "second")
    held = threading.Event()

    def other():
        with locks.held(store.root / f"{folder.name}.lock", "the training"):
            held.set()
            time.sleep(0.5)
            (tmp_path / "second").touch()

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    store.ensure(weights, die, fresh=True, renewed=tmp_path / "second")
    thread.join()


def test_a_fresh_training_that_fails_leaves_the_old_model_alone(tmp_path):
    store = models.ModelStore(tmp_path)
    weights = weights_of(CONFIG, images())
    folder = store.ensure(weights, lambda _: build())
    before = (folder / "ema.safetensors").read_bytes()
    with pytest.raises(RuntimeError, match="no luck"):
        store.ensure(weights, die, fresh=True)
    assert (folder / "ema.safetensors").read_bytes() == before
    assert store.finished(folder.name)


def die(_):
    raise RuntimeError("no luck")


def test_a_fresh_model_that_was_done_when_its_process_died_takes_its_place(tmp_path, monkeypatch):
    """At every one of the moments between being done and being in place, whoever wants the model next."""
    store, weights = models.ModelStore(tmp_path), weights_of(CONFIG, images())
    folder = store.ensure(weights, lambda _: build())
    for moment, fresh in ((0, True), (0, False), (1, False)):  # there are two renames
        before, rename, left = (folder / "DONE").stat().st_mtime_ns, Path.rename, [moment]

        def dying(path, target, rename=rename, left=left):
            if not left[0]:
                raise RuntimeError("no luck")
            left[0] -= 1
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", dying)
            with pytest.raises(RuntimeError, match="no luck"):
                store.ensure(weights, lambda _: build(), fresh=True)
        assert store.ensure(weights, die, fresh) == folder
        assert store.keys() == [folder.name] == [path.name for path in store.root.iterdir()]
        assert (folder / "DONE").stat().st_mtime_ns > before


@pytest.mark.parametrize("half", [False, True], ids=["finished", "half"])
def test_that_the_images_have_changed_is_said(half, tmp_path, caplog):
    store, before = models.ModelStore(tmp_path), weights_of(CONFIG, images())
    if half:
        with pytest.raises(RuntimeError, match="no luck"):
            store.ensure(before, die)
    else:
        store.ensure(before, lambda _: build())
    store.ensure(weights_of({**CONFIG, "seed": 1}, images()), lambda _: build())
    store.ensure(before, lambda _: build())
    assert "have changed" not in caplog.text
    store.ensure(weights_of(CONFIG, images(1)), lambda _: build())
    (said,) = [message for message in caplog.messages if "images of dataset random have changed" in message]
    assert str(store.folder(model_key(before))) in said
    assert "a new model is trained" in said


@pytest.fixture
def model(tmp_path):
    return models.ModelStore(tmp_path).ensure(weights_of(CONFIG, images()), lambda _: build())


def test_load_gives_the_network_and_its_process(model):
    net, process = skipstone.load(str(model))
    assert process.num_steps == 20
    assert not net.training
    state = load_file(model / "ema.safetensors")
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())


def test_what_is_no_model_is_refused(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished model"):
        skipstone.load(tmp_path)
    weights = (model / "ema.safetensors").read_bytes()
    (model / "ema.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="damaged or of another network"):
        skipstone.load(model)
    save_file({"other": torch.zeros(1)}, model / "ema.safetensors")
    with pytest.raises(ValueError, match="damaged or of another network"):
        skipstone.load(model)


@pytest.mark.parametrize("target", ["os.system", "skipstone.store.models.shutil.rmtree", "builtins.eval"])
def test_a_config_that_asks_for_foreign_code_is_refused(model, target):
    config = OmegaConf.load(model / "config.yaml")
    config.model = {"_target_": target, "command": "true"}
    OmegaConf.save(config, model / "config.yaml")
    with pytest.raises(ValueError, match="does not build"):
        skipstone.load(model)

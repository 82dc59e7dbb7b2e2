import dataclasses
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
from skipstone.store import listing, locks, models
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
    for moment, fresh in ((0, True), (0, False), (1, False), (2, False)):  # the first rename fails, as one stands there
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


def as_before(config, data):
    """What was keyed of a configuration before settings that mean the same had one key."""
    dataset = {"name": data.name, "fingerprint": data.fingerprint, "flip": data.flip}
    trainer = {name: config["trainer"][name] for name in ("max_steps", "precision", "gradient_clip_val", "profiler")}
    parts = {part: config[part] for part in ("model", "noise", "training", "seed")}
    return {"format": 1, "dataset": dataset, "trainer": trainer, **parts}


ODD = {
    **CONFIG,
    "model": {**MODEL, "attention": [4, 4], "dropout": -0.0},
    "trainer": {**CONFIG["trainer"], "gradient_clip_val": 0.0, "profiler": "simple"},
}
SAME = {
    **CONFIG,
    "model": {**MODEL, "dropout": 0.0},
    "trainer": {**CONFIG["trainer"], "gradient_clip_val": None, "profiler": None},
}


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "half"])
def test_a_model_that_an_older_version_keyed_by_odd_settings_is_found(finished, tmp_path, caplog):
    caplog.set_level("INFO")
    store, before = models.ModelStore(tmp_path), as_before(ODD, images())
    now = weights_of(SAME, images())
    assert model_key(before) != model_key(now) == model_key(weights_of(ODD, images()))
    if finished:
        store.ensure(before, lambda _: build())
    else:
        with pytest.raises(RuntimeError, match="no luck"):
            store.ensure(before, die)
    assert store.as_stored(now) == before
    assert f"this is the model {model_key(before)}" in caplog.text
    assert store.ensure(store.as_stored(now), die if finished else lambda _: build()) == store.folder(model_key(before))
    skipstone.load(store.folder(model_key(before)))
    other = weights_of({**SAME, "seed": 1}, images())
    assert store.as_stored(other) == other


def test_data_are_known_by_their_pixels_not_by_their_name(tmp_path):
    store, data = models.ModelStore(tmp_path), images()
    folder = store.ensure(weights_of(CONFIG, data), lambda _: build())
    renamed = weights_of(CONFIG, dataclasses.replace(data, name="holiday"))
    assert model_key(renamed).startswith("holiday-")
    assert store.ensure(store.as_stored(renamed), die) == folder
    other = weights_of(CONFIG, images(1))
    assert store.as_stored(other) == other


@pytest.mark.parametrize("fresh", [False, True])
def test_a_training_that_an_older_version_was_cut_off_in_goes_on(fresh, tmp_path):
    """It lies in <key>/ or <key>.fresh/."""
    store, weights = models.ModelStore(tmp_path), weights_of(CONFIG, images())
    final = store.folder(model_key(weights))
    if fresh:
        store.ensure(weights, lambda _: build())
    older = final.with_name(f"{final.name}{'.fresh' if fresh else ''}")
    older.mkdir(parents=True)
    (older / "last.ckpt").write_text("of an older version")

    def train(folder):
        assert (folder / "last.ckpt").read_text() == "of an older version"
        return build()

    assert store.ensure(weights, train, fresh) == final
    assert [path.name for path in store.root.iterdir()] == [final.name]
    assert (final / "last.ckpt").exists()


def test_what_an_older_version_was_killed_in_replacing_is_finished(tmp_path):
    store, weights = models.ModelStore(tmp_path), weights_of(CONFIG, images())
    final = store.ensure(weights, lambda _: build())
    final.rename(f"{final}.old")
    assert store.ensure(weights, die) == final
    assert [path.name for path in store.root.iterdir()] == [final.name]


def test_one_that_finishes_where_a_model_stands_already_leaves_that_one(tmp_path):
    """As it may be where somebody removed the lock."""
    store, weights = models.ModelStore(tmp_path), weights_of(CONFIG, images())
    left = []

    def train(folder):
        (store.root / f"{model_key(weights)}.lock").unlink()
        left.append(store.ensure(weights, lambda _: build()))
        left.append((left[0] / "ema.safetensors").read_bytes())
        folder.mkdir(exist_ok=True)  # the other took it over, and it comes to life again
        return build()

    assert store.ensure(weights, train) == left[0]
    assert (left[0] / "ema.safetensors").read_bytes() == left[1]
    assert [path.name for path in store.root.iterdir()] == [left[0].name]


def test_a_person_sees_what_is_stored_and_removes_it(tmp_path):
    store = models.ModelStore(tmp_path)
    kept, gone = (store.ensure(weights_of(CONFIG | {"seed": seed}, images()), lambda _: build()) for seed in (1, 2))
    (gone / "fine-seed0.safetensors").write_bytes(bytes(3_000_000))
    rows = listing.rows(store)
    assert [row["key"] for row in rows] == [kept.name, gone.name]
    assert [row["steps"] for row in rows] == [3, 3]
    assert rows[0]["network"] == "UNet"
    assert rows[0]["size"] != rows[1]["size"]
    assert float(rows[1]["size"][:-3]) >= 3.0
    assert abs(time.mktime(time.strptime(rows[1]["date"], "%Y-%m-%d %H:%M")) - time.time()) < 120
    named = []
    with locks.held(gone / "fine-seed0.lock", "a solution"), pytest.raises(ValueError, match="another process works"):
        listing.remove(store, gone.name, named.append)
    with pytest.raises(FileNotFoundError, match="no model's whole key"):
        listing.remove(store, gone.name[:-1], named.append)
    assert not named
    assert gone.is_dir()
    listing.remove(store, gone.name, named.append)
    assert [row["key"] for row in named] == [gone.name]
    assert store.keys() == [path.name for path in store.root.iterdir()] == [kept.name]

"""The model's key, key by key: what must change it, and what must not."""

import dataclasses
import os

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from skipstone import kernels
from skipstone.commands.cli import CONF
from skipstone.data import ImageSet
from skipstone.network import placement
from skipstone.store.key import model_key, weights_config

CHANGES, SAME, IMAGES = "changes the key", "leaves the key", "changes the key through the images alone"

# The longest prefix that fits decides. There is no default: a new key of the configuration must be listed here.
TABLE = {
    "dataset.": IMAGES,
    "dataset.name": CHANGES,
    "dataset.flip": CHANGES,
    "dataset.image_size": CHANGES,  # also the model's
    "dataset.channels": CHANGES,
    "model.": CHANGES,
    "noise.": CHANGES,
    "training.": CHANGES,
    "seed": CHANGES,
    "trainer.max_steps": CHANGES,
    "trainer.precision": CHANGES,
    "trainer.gradient_clip_val": CHANGES,
    "trainer.accumulate_grad_batches": CHANGES,
    "trainer.accelerator": SAME,
    "trainer.devices": SAME,
    "trainer.strategy": SAME,
    "trainer.compile": SAME,
    "trainer.kernels": SAME,
    "trainer.threads": SAME,
    "trainer.val_check_interval": SAME,
    "trainer.log_every_n_steps": SAME,
    "trainer.checkpoint_every_n_steps": SAME,
    "trainer.enable_progress_bar": SAME,
    "tau": SAME,
    "nfe": SAME,
    "eta": SAME,
    "fresh": SAME,
    "resume": SAME,
    "paths.outputs": SAME,
    "schedule.": SAME,
    "solver.": SAME,
    "metrics.": SAME,
    "logger.": SAME,
    "evaluation.": SAME,
}
GROUPS = ("model", "noise", "dataset", "schedule", "solver", "logger", "trainer", "metrics")
CHOICES = [[f"{group}={path.stem}"] for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def images_of(config, pixel=0):
    """A data set that has of the configuration what a data set keeps, and these pixels."""
    part = torch.full((3, 1, 8, 8), pixel, dtype=torch.uint8)
    return ImageSet(config["dataset"]["name"], part, part, config["dataset"]["flip"])


def resolved(overrides):
    if not OmegaConf.has_resolver("pid"):
        OmegaConf.register_new_resolver("pid", os.getpid)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["schedule.timesteps=[0,5]"] * ("schedule=custom" in overrides) + overrides)
    return OmegaConf.to_container(config, resolve=True)


def leaves(node, prefix=""):
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def expected(leaf):
    fits = [prefix for prefix in TABLE if leaf == prefix or (prefix.endswith(".") and leaf.startswith(prefix))]
    assert fits, f"{leaf} is not in the table: say whether it changes the weights"
    return TABLE[max(fits, key=len)]


def another(value):
    """A value that differs; what it means is not asked here."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if value + 1 != value else 1.0  # infinity
    if isinstance(value, list):
        return [*value, -1]
    return "another" if value != "another" else "a third"


def with_leaf(config, leaf, value):
    *above, name = leaf.split(".")
    if not above:
        return {**config, name: value}
    return {**config, above[0]: with_leaf(config[above[0]], leaf.removeprefix(f"{above[0]}."), value)}


def key(config, data):
    return model_key(weights_config(config, data.name, data.fingerprint, data.flip))


@pytest.mark.parametrize(
    "overrides", [[], ["experiment=smoke"], *CHOICES], ids=lambda words: " ".join(words) or "default"
)
def test_every_leaf_of_the_configuration_is_in_the_key_or_is_known_not_to_be(overrides):
    config = resolved(overrides)
    before = key(config, images_of(config))
    for leaf, value in leaves(config):
        changed = with_leaf(config, leaf, another(value))
        assert changed != config
        if leaf in ("dataset.image_size", "dataset.channels"):
            name = leaf.removeprefix("dataset.")
            changed = with_leaf(changed, f"model.{name}", another(value))  # which follows it
        assert (key(changed, images_of(changed)) != before) == (expected(leaf) == CHANGES), leaf
        if expected(leaf) == IMAGES:
            assert key(changed, images_of(changed, pixel=1)) != before, leaf


def test_the_table_names_nothing_that_is_not_there():
    there = {leaf for words in [[], *CHOICES] for leaf, _ in leaves(resolved(words))}
    assert [name for name in TABLE if not any(leaf.startswith(name) for leaf in there)] == []


def test_the_images_of_the_default_data_set_follow_its_keys():
    config = resolved([])["dataset"]
    prints = {}
    for name, value in {"held_out": 400, "image_size": 32, "channels": 3, "flip": True}.items():
        data = instantiate({**config, name: value})
        prints[name] = (data.fingerprint, data.flip)
    data = instantiate(config)
    assert len({*prints.values(), (data.fingerprint, data.flip)}) == 1 + len(prints)
    assert dataclasses.replace(data, train=data.train.clone()).fingerprint == data.fingerprint


def test_where_it_runs_is_not_in_the_key_but_its_precision_is(monkeypatch):
    """auto is made concrete before it is keyed: the same model on a GPU in float32, another one in bf16."""
    config, keys = resolved([]), {}
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(kernels, "there", lambda there=there: there)
        for precision in ("auto", "32-true"):
            trainer = placement.resolve({**config["trainer"], "precision": precision})
            keys[there, precision] = key({**config, "trainer": trainer}, images_of(config))
    assert keys[False, "auto"] == keys[False, "32-true"] == keys[True, "32-true"] != keys[True, "auto"]


# of model=unet_tiny, with which everybody's first models were trained
FIRST_RECIPE = [
    "model.attention=[-2]", "trainer.max_steps=1600", "training.ema_decay=0.995", "training.weighting=none",
    "training.optimizer=adamw",
]  # fmt: skip


def test_a_setting_that_came_later_leaves_the_keys_of_earlier_models():
    """As they were before training.weighting, to the letter: who trained for a day finds the model again."""
    for overrides, name in ((FIRST_RECIPE, "mnist5k-965aa8ecbf"), (["model=unet_cifar10"], "mnist5k-4e9619406a")):
        config = resolved(overrides)
        assert key(config, images_of(config)) == name


SAME_MODEL = {
    "a clip of nothing": [{"trainer.gradient_clip_val": value} for value in (None, 0, 0.0, -0.0)],
    "how what does not clip would": [
        {"trainer.gradient_clip_val": None, "trainer.gradient_clip_algorithm": how} for how in ("norm", "value", None)
    ],
    "how a clip is meant": [{}, {"trainer.gradient_clip_algorithm": "norm"}, {"trainer.gradient_clip_algorithm": None}],
    "attention": [{"model.attention": sizes} for sizes in ([8, 7], [7, 8], [7, 7, 8])],
    "attention that no file names": [{"model.attention": sizes} for sizes in ([14, 7], [7, 14], [7, 7, 14])],
    "a zero's sign": [{"model.dropout": zero, "training.weight_decay": zero} for zero in (0.0, -0.0)],
    "a trainer that looks": [
        {},
        {"trainer.profiler": "simple", "trainer.default_root_dir": "elsewhere"},
        {"trainer.detect_anomaly": True, "trainer.limit_val_batches": 2, "trainer.inference_mode": False},
        {"trainer.benchmark": None, "trainer.deterministic": None},
    ],
}
OTHER_MODELS = [
    {"trainer.gradient_clip_val": 0.5},
    {"trainer.gradient_clip_algorithm": "value"},
    {"trainer.max_time": "00:00:00:05"},
    {"trainer.limit_train_batches": 3},
    {"trainer.overfit_batches": 1},
    {"trainer.deterministic": True},
    {"model.attention": [14]},
    {"model.multipliers": [2, 2, 1]},
]


def key_with(changes):
    config = resolved([])
    for leaf, value in changes.items():
        config = with_leaf(config, leaf, value)
    return key(config, images_of(config))


@pytest.mark.parametrize("spellings", SAME_MODEL.values(), ids=SAME_MODEL)
def test_settings_that_mean_the_same_have_one_key(spellings):
    assert len({key_with(changes) for changes in spellings}) == 1


def test_settings_that_mean_something_else_have_another():
    assert len({key_with(changes) for changes in [{}, *OTHER_MODELS]}) == 1 + len(OTHER_MODELS)


def test_a_network_of_ones_own_may_mean_something_by_an_order():
    own = {"model._target_": "own.Net", "model.attention": [8, 7]}
    assert key_with(own) != key_with(own | {"model.attention": [7, 8]})

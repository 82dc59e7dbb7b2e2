"""A model's key: the name of its folder, a function of everything that changes its weights and of nothing else.

Sampling settings (schedule, tau, eta, solver), loggers, devices and paths are not in it: a run that differs only there
finds the model and samples it.
"""

import hashlib
import json
from typing import Any

from skipstone.network.unet import attention_levels

FORMAT = 1

# Trainer settings that leave the weights alone. What is not listed here counts as changing them. The threads are kept
# beside what is hashed, because sampling wants as many.
_WEIGHTLESS = (
    "accelerator", "devices", "num_nodes", "strategy", "compile", "kernels", "val_check_interval", "threads",
    "log_every_n_steps", "checkpoint_every_n_steps", "enable_progress_bar",
)  # fmt: skip

# Settings that came later, each with the value that leaves training as it was. At that value a setting is not
# hashed, so a model that was trained before the setting existed keeps its key.
_NEUTRAL = {"weighting": "none", "optimizer": "adamw", "rescale": False}

# The shipped networks named levels with attention by sizes in pixels before they named them from the bottom. Where one
# of these lists means the same levels, it is what is hashed, so a model that was trained then keeps its key.
_ATTENTION_BY_SIZE = [7, 8], [16, 14]


def weights_config(
    config: dict[str, Any], name: str, fingerprint: str, flip: bool, source: str | None = None
) -> dict[str, Any]:
    """Everything that changes the weights, as plain containers; and the CPU threads of the training, which do not.

    config:       composed and resolved, with the groups model, noise, training and trainer, and the seed
    name:         of the data set
    fingerprint:  of its images (ImageSet.fingerprint)
    flip:         whether half of the training images are mirrored
    source:       of the code of a network or a noise schedule that is not ours (store.source.fingerprint)
    """
    weights = {
        "format": FORMAT,
        "dataset": {"name": name, "fingerprint": fingerprint, "flip": flip},
        "model": _attention_by_size(_without_neutral(config["model"])),
        "noise": _without_neutral(config["noise"]),
        "training": _without_neutral(config["training"]),
        "trainer": {k: v for k, v in config["trainer"].items() if k not in _WEIGHTLESS},
        "seed": config["seed"],
        "threads": config["trainer"].get("threads"),
    }
    return weights if source is None else weights | {"source": source}


def _without_neutral(settings: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in settings.items() if name not in _NEUTRAL or value != _NEUTRAL[name]}
    return {name: _without_neutral(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _attention_by_size(model: dict[str, Any]) -> dict[str, Any]:
    named, levels = set(model.get("attention", ())), len(model.get("multipliers", ()))
    ours = model["_target_"] in ("skipstone.UNet", "skipstone.VelocityUNet")
    if not (ours and named and named <= set(range(-levels, 0))):
        return model
    sizes = [model["image_size"] // model.get("patch", 1) // 2**i for i in range(levels)]
    there = attention_levels(named, sizes)
    same = (by_size for by_size in _ATTENTION_BY_SIZE if attention_levels(by_size, sizes) == there)
    return model | {"attention": next(same, model["attention"])}


def model_key(weights: dict[str, Any]) -> str:
    """The name of the model's folder: its data set, for people, and a hash of what `weights_config` gathered."""
    text = json.dumps({k: v for k, v in weights.items() if k not in _WEIGHTLESS}, sort_keys=True)
    return f"{weights['dataset']['name']}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

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
    "log_every_n_steps", "checkpoint_every_n_steps", "enable_progress_bar", "profiler", "default_root_dir",
    "detect_anomaly", "limit_val_batches", "check_val_every_n_epoch", "inference_mode", "enable_autolog_hparams",
)  # fmt: skip

# Settings that came later, each with the values that leave training as it was. At these a setting is not hashed, so a
# model that was trained before the setting existed keeps its key.
_NEUTRAL = {
    "weighting": ("none",), "optimizer": ("adamw",), "rescale": (False,), "gradient_clip_algorithm": ("norm",),
    "predicts": ("eps",), "classes": (None, 0),
}  # fmt: skip

# Which levels have attention can be spelt by sizes and from the bottom. Where one of these lists of sizes, which the
# shipped networks had first, means the same levels, it is what is hashed: a model that was trained then keeps its key.
_SHIPPED_ATTENTION = [7, 8], [16, 14]


def weights_config(
    config: dict[str, Any],
    name: str,
    fingerprint: str,
    flip: bool,
    source: str | None = None,
    labels: str | None = None,
) -> dict[str, Any]:
    """Everything that changes the weights, as plain containers; and the CPU threads of the training, which do not.

    config:       composed and resolved, with the groups model, noise, training and trainer, and the seed
    name:         of the data set
    fingerprint:  of its images (ImageSet.fingerprint)
    flip:         whether half of the training images are mirrored
    source:       of the code of a network or a noise schedule that is not ours (store.source.fingerprint)
    labels:       of the labels (ImageSet.labels_fingerprint), where the network has classes
    """
    weights = {
        "format": FORMAT,
        "dataset": {"name": name, "fingerprint": fingerprint, "flip": flip},
        **{part: config[part] for part in ("model", "noise", "training", "trainer", "seed")},
        "threads": config["trainer"].get("threads"),
    }
    if labels is not None:
        weights["dataset"]["labels"] = labels
    return normal(weights if source is None else weights | {"source": source})


def normal(weights: dict[str, Any]) -> dict[str, Any]:
    """The one spelling of all settings that mean the same: what leaves the weights alone is left out."""
    weights = {name: _plain(value) for name, value in weights.items()}
    if str(weights.get("model", {}).get("_target_")).startswith("skipstone."):
        weights["model"] = _attention_by_size(weights["model"])
    if "trainer" in weights:
        # None is Lightning's default, which need not be named; the clip always was
        trainer = {"gradient_clip_val": None} | {k: v for k, v in weights["trainer"].items() if v is not None}
        trainer["gradient_clip_val"] = trainer["gradient_clip_val"] or None  # 0 does not clip, either
        if trainer["gradient_clip_val"] is None:
            trainer.pop("gradient_clip_algorithm", None)
        weights["trainer"] = {name: value for name, value in trainer.items() if name not in _WEIGHTLESS}
    if "training" in weights and "classes" not in weights.get("model", {}):  # a neutral one is gone by here
        weights["training"] = {k: v for k, v in weights["training"].items() if k != "label_dropout"}
    return weights


def _plain(value: Any) -> Any:
    """Without what is neutral, and 0.0 for −0.0."""
    if isinstance(value, dict):
        kept = {name: child for name, child in value.items() if name not in _NEUTRAL or child not in _NEUTRAL[name]}
        return {name: _plain(child) for name, child in kept.items()}
    if isinstance(value, list):
        return [_plain(child) for child in value]
    return value + 0.0 if isinstance(value, float) else value


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two descriptions are of the same model. Data are known by their pixels, whatever their name."""
    return _nameless(one) == _nameless(other)


def _nameless(weights: dict[str, Any]) -> dict[str, Any]:
    dataset = {k: v for k, v in weights["dataset"].items() if k != "name"}
    return {k: v for k, v in normal(weights).items() if k not in _WEIGHTLESS} | {"dataset": dataset}


def _attention_by_size(model: dict[str, Any]) -> dict[str, Any]:
    """The sizes of the levels that have attention, or the shipped list that means them."""
    attention, levels = model.get("attention"), len(model.get("multipliers", ()))
    if not attention or not levels:
        return model
    sizes = [model["image_size"] // model.get("patch", 1) // 2**i for i in range(levels)]
    there = attention_levels(attention, sizes)
    shipped = (each for each in _SHIPPED_ATTENTION if attention_levels(each, sizes) == there)
    return model | {"attention": next(shipped, [sizes[i] for i in sorted(there, reverse=True)])}


def model_key(weights: dict[str, Any]) -> str:
    """The name of the model's folder: its data set, for people, and a hash of what `weights_config` gathered."""
    text = json.dumps({k: v for k, v in weights.items() if k not in _WEIGHTLESS}, sort_keys=True)
    return f"{weights['dataset']['name']}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

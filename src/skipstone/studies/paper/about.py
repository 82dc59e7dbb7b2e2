"""What a reader of the tables must know beside the numbers: the model and its training, the data, the machine."""

import platform
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from skipstone.commands.finished import OpenedModel
from skipstone.data import ImageSet
from skipstone.evaluation.metrics import ClassifierFeatures, Proxies

# What differs from machine to machine, or says nothing of the numbers
_PLACES = ("out", "paths.outputs", "tried", "budget", "train_command")
_FOLDERS = ("dataset.root", "metrics.inception")


def identity(
    config: DictConfig, model: OpenedModel, images: ImageSet, settings: Sequence[str], **more: str | None
) -> dict[str, Any]:
    """Everything that changes a number of a study, as JSON has it. settings: of the configuration, beside metrics."""
    plain = OmegaConf.to_container(config, resolve=True)
    return {
        "model": weights_of(model),
        "dataset": f"{images.name} {images.fingerprint}",
        "precision": model.trainer["precision"],
        **{name: plain[name] for name in (*settings, "metrics")},
        **more,
    }


def weights_of(model: OpenedModel) -> str:
    """A model's name and a hash of its weights."""
    return f"{model.folder.name} {model.weights}"


def model_facts(model: OpenedModel) -> dict[str, Any]:
    """Of a finished model: its settings, the images it was shown, how long that took."""
    config = OmegaConf.load(model.folder / "config.yaml")
    training = {
        name: OmegaConf.select(config, f"training.{name}") for name in OmegaConf.select(config, "training", default={})
    }
    steps, batch = OmegaConf.select(config, "trainer.max_steps"), training.get("batch_size")
    gathered = OmegaConf.select(config, "trainer.accumulate_grad_batches", default=1)
    network = OmegaConf.to_container(config.model)
    network.pop("betas", None)
    return {
        "key": model.folder.name,
        "parameters": sum(parameter.numel() for parameter in model.net.parameters()),
        "network": {**network, "_target_": network["_target_"].rsplit(".", 1)[-1]},
        "training": training,
        "trainer": {
            name: OmegaConf.select(config, f"trainer.{name}")
            for name in ("max_steps", "precision", "gradient_clip_val")
            if OmegaConf.select(config, f"trainer.{name}") is not None
        },
        "images_seen": steps * batch * gathered if steps and batch else None,
        "seconds": _seconds(model.folder) if steps else None,
    }


def _seconds(folder: Path) -> float:
    """Between the first and the last file of a training; of one that was resumed, the last stretch."""
    return (folder / "DONE").stat().st_mtime - (folder / "config.yaml").stat().st_mtime


def data_facts(config: DictConfig, images: ImageSet) -> dict[str, Any]:
    """Of the data set: how many images of what form, and whether its files are JPEGs, which have lost something."""
    root = config.dataset.get("root")
    jpeg = "folder" in config.dataset._target_ and any(
        path.suffix.lower() in (".jpg", ".jpeg") for path in islice(Path(root).expanduser().rglob("*.*"), 1000)
    )
    return {
        "name": images.name,
        "shape": list(images.shape),
        "train": len(images.train),
        "held_out": len(images.held_out),
        "flip": images.flip,
        "jpeg": jpeg,
    }


def classifier_accuracy(proxies: Proxies) -> float | None:
    """Of the classifier whose features are compared, on held-out images; None without one."""
    found = [proxy.extractor.accuracy for proxy in proxies.proxies if isinstance(proxy.extractor, ClassifierFeatures)]
    return found[0] if found else None


def machine(model: OpenedModel) -> dict[str, Any]:
    """The device, and how the network was evaluated there."""
    device, trainer = model.device, model.trainer
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} processor, "
    if device.type != "cuda":
        name += f"{torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1)
    return {
        "device": name,
        "precision": str(trainer["precision"]),
        "compiled": bool(trainer["compile"]),
        "torch": torch.__version__,
    }


def command(script: str, overrides: list[str]) -> str:
    """The command line without what is of this machine alone."""
    words = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key in _PLACES:
            continue
        if key in _FOLDERS:
            value = "<folder>"
        elif key in ("run", "baseline"):
            value = Path(value).name
        words.append(f"{key}={value}")
    return " ".join([f"python scripts/{script}.py", *words])

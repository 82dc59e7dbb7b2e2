"""A finished model opened for a command: found, loaded, placed; and the folder for what the command writes."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from skipstone.commands.grid import choose_taus
from skipstone.evaluation import results
from skipstone.network import compiling, placement
from skipstone.process import ForwardProcess
from skipstone.store import models

if TYPE_CHECKING:
    from skipstone.data import ImageSet


@dataclass(frozen=True)
class OpenedModel:
    """A finished model, ready to be sampled.

    net:      on the device of `trainer`, in the form in which it is sampled there
    process:  its forward process
    shape:    (C, H, W) of its images
    folder:   outputs/models/<key>
    trainer:  the resolved settings under which it runs (placement.resolve)
    """

    net: nn.Module
    process: ForwardProcess
    shape: tuple[int, int, int]
    folder: Path
    trainer: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return placement.device(self.trainer)

    @cached_property
    def weights(self) -> str:
        """A hash of the stored weights."""
        with models.weights_of(self.folder).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    @property
    def form(self) -> dict[str, str]:
        """What changes its predictions: the weights, and how they are evaluated."""
        return {"weights": self.weights} | {name: str(self.trainer[name]) for name in ("precision", "kernels")}


def open_model(config: DictConfig) -> tuple[OpenedModel, DictConfig]:
    """The model that `run` names (store.models.ModelStore.find), and the settings with its own β and the tau of nfe.

    It is placed as device, precision, compile, kernels and threads ask. Raises FileNotFoundError, naming the keys that
    there are, if there is no such model.
    """
    folder = _folder_of(config)
    compiling.keep_under(config.paths.outputs)
    trainer = _trainer_of(config)
    net, process = models.load(folder)
    config = OmegaConf.merge(config, {"noise": models.read_config(folder)["noise"]})
    choose_taus(config, process)
    shape = (net.channels, net.image_size, net.image_size)
    placed = placement.place(net, trainer, process.num_steps)
    return OpenedModel(placed, process, shape, folder, trainer), config


def _folder_of(config: DictConfig) -> Path:
    store = models.ModelStore(config.paths.outputs)
    if OmegaConf.is_missing(config, "run"):
        raise ValueError(f"say which model with run=<key>: there is {store.listed()}.")
    return store.find(config.run, results.model)


def _trainer_of(config: DictConfig) -> dict[str, Any]:
    """The settings under which a command evaluates the network, resolved; threads take effect here."""
    if config.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={config.device} is unknown: choose auto, cpu or cuda.")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda asks for CUDA, and there is none here: use device=cpu or device=auto.")
    placement.use_threads(config.threads)
    one = {"accelerator": config.device, "devices": 1, "strategy": "auto"}
    return placement.resolve({**one, **{name: config[name] for name in ("precision", "compile", "kernels")}})


def require_training_data(model: OpenedModel, images: "ImageSet") -> None:
    """Raise ValueError unless these are the images that the model was trained on: distances compare with them."""
    require_own_form(model, images)
    trained_on = models.read_config(model.folder)["dataset"]
    fingerprint = trained_on.get("fingerprint")
    if images.fingerprint != fingerprint:
        raise ValueError(
            f"the model was trained on {trained_on['name']} (fingerprint {fingerprint}), and dataset="
            f"{images.name} is other data ({images.fingerprint}): choose that data set, with the settings it had then."
        )


def require_own_form(model: OpenedModel, images: "ImageSet") -> None:
    """Raise ValueError unless these images have the shape of those that the model makes."""
    if images.shape != model.shape:
        raise ValueError(
            f"the model makes images {model.shape}, dataset={images.name} holds {images.shape} (channels, height, "
            "width): choose the data set it was trained on, or set dataset.channels and dataset.image_size."
        )


def new_folder(path: str | Path) -> Path:
    """Make the folder. Raises FileExistsError if it holds anything, so that nothing is overwritten."""
    folder = Path(path)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"out={folder} holds files already: name a folder that does not exist.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder

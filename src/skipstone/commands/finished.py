"""What the commands on finished models share: find the model, build the table, make the folder for what they write."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from skipstone.commands.grid import build_cells, choose_taus
from skipstone.evaluation.cells import Cell
from skipstone.network import compiling, placement
from skipstone.process import ForwardProcess
from skipstone.store import models

if TYPE_CHECKING:
    from skipstone.data import ImageSet


@dataclass(frozen=True)
class Finished:
    """A model on its device, its process, the form of its images, its folder, and the composed settings.

    config: with the model's own β, and with the tau of nfe.
    """

    net: nn.Module
    process: ForwardProcess
    shape: tuple[int, int, int]
    folder: Path
    config: DictConfig

    def cell(self) -> Cell:
        """The (schedule, solver, tau, eta) that was asked for."""
        (cell,) = build_cells(self.config, self.process, [], [])
        return cell


def open_model(config: DictConfig) -> Finished:
    """The model that `run` names, by its key or its folder. Raises FileNotFoundError with the keys that there are."""
    compiling.keep_under(config.paths.outputs)
    store = models.ModelStore(config.paths.outputs)
    there = store.keys() or ["none; train one with train.py"]
    if OmegaConf.is_missing(config, "run"):
        raise ValueError(f"say which model with run=<key>: there is {', '.join(there)}.")
    folder = Path(config.run)
    if not folder.is_dir():
        folder = store.folder(config.run)
        if not folder.is_dir():
            raise FileNotFoundError(f"run={config.run} is neither a folder nor a key: there is {', '.join(there)}.")
    if config.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={config.device} is unknown: choose auto, cpu or cuda.")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda asks for CUDA, and there is none here: use device=cpu or device=auto.")
    cuda = config.device != "cpu" and torch.cuda.is_available()
    net, process = models.load(folder)
    config = OmegaConf.merge(config, {"noise": models.read_config(folder)["noise"]})
    choose_taus(config, process)
    shape = (net.channels, net.image_size, net.image_size)
    return Finished(net.to("cuda" if cuda else "cpu"), process, shape, folder, config)


def resolve_trainer(config: DictConfig) -> dict[str, Any]:
    """The settings device, precision, kernels and so on, as placement.resolve has them; threads take effect here."""
    placement.use_threads(config.threads)
    one = {"accelerator": config.device, "devices": 1, "strategy": "auto"}
    return placement.resolve({**one, **{name: config[name] for name in ("precision", "compile", "kernels")}})


def require_training_data(model: Finished, images: "ImageSet") -> None:
    """Raise ValueError unless these are the very images that the model was trained on: distances compare with them."""
    require_own_form(model, images)
    trained_on = models.read_config(model.folder)["dataset"]
    fingerprint = trained_on.get("fingerprint")
    if images.fingerprint != fingerprint:
        raise ValueError(
            f"the model was trained on {trained_on['name']} (fingerprint {fingerprint}), and dataset="
            f"{images.name} is other data ({images.fingerprint}): choose that data set, with the settings it had then."
        )


def require_own_form(model: Finished, images: "ImageSet") -> None:
    """Raise ValueError unless these images have the form of those that the model makes."""
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

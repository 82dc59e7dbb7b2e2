"""A finished model opened for a command: found, loaded, placed; and the folder for what the command writes."""

import hashlib
import logging
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from skipstone import engine, exchange
from skipstone.commands.called import called
from skipstone.commands.grid import choose_taus
from skipstone.commands.words import typed
from skipstone.evaluation import results
from skipstone.fitting.gits import KeptCosts
from skipstone.fitting.kept import KeptTables
from skipstone.network import compiling, placement
from skipstone.process import ForwardProcess
from skipstone.schedules import Costs
from skipstone.solvers import StepTable
from skipstone.store import models, source, stored

if TYPE_CHECKING:
    from skipstone.data import ImageSet

log = logging.getLogger(__name__)

REMEDY = "Take other weights, or a finer precision (precision=32-true)."


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
        with stored.weights_of(self.folder).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def costs(self) -> Costs:
        """The costs of jumps along its trajectories, for schedule=gits: those that are kept, or else measured now."""
        return self._costs

    @cached_property
    def _costs(self) -> Costs:
        return KeptCosts(self.folder, self.form).ensure(self.net, self.process, self.shape)

    @property
    def tables(self) -> KeptTables:
        """Those that were fitted to it."""
        return KeptTables(self.folder, self.weights, shlex.join(called("fit")))

    def fitted(self, nfe: int) -> StepTable:
        """That for so many evaluations, for solver=fitted. Raises ValueError where there is none."""
        return self.tables.read(nfe, self.process)

    @cached_property
    def form(self) -> dict[str, str]:
        """What changes its predictions: the weights, how they are evaluated, and code that is not ours."""
        code = source.fingerprint(source.classes_of(self.net))
        told = {"weights": self.weights} | {name: str(self.trainer[name]) for name in ("precision", "kernels")}
        return told if code is None else told | {"code": code}


def open_model(config: DictConfig) -> tuple[OpenedModel, DictConfig]:
    """The model that `run` names (store.models.ModelStore.find), and the settings with its own β and the tau of nfe.

    It is placed as device, precision, compile, kernels and threads ask; threads take effect here, by default as many
    as it was trained with. Raises FileNotFoundError, naming the keys that there are, if there is no such model.
    """
    folder = _folder_of(config)
    compiling.keep_under(config.paths.outputs)
    trainer = placement.alone(config.device, config.precision, config.compile, config.kernels)
    net, process = stored.load(folder, allow=config.allow)
    placement.use_threads(config.threads or net.threads)
    own = stored.read_config(folder, foreign=True)
    config = OmegaConf.merge(config, {"noise": own["noise"]})
    _clip_as_its_own(config, own)
    choose_taus(config, process)
    shape = (net.channels, net.image_size, net.image_size)
    if None in shape:
        raise ValueError("the network does not tell its image_size and channels: give it these two attributes.")
    placed = placement.place(net, trainer, process.num_steps)
    return OpenedModel(placed, process, shape, folder, trainer), config


def require_finite(model: OpenedModel, table: StepTable, x: torch.Tensor, **asked: Any) -> None:
    """Warn where samples are not finite, and raise ValueError where none is. Arguments as for engine.not_finite."""
    lost = engine.not_finite(model.net, table, x, **asked)
    if lost is not None and lost.all:
        raise ValueError(f"{lost}; nothing is written. {REMEDY}")
    if lost is not None:
        log.warning("%s. %s", lost, REMEDY)


def stored_model(config: DictConfig) -> tuple[Path, nn.Module, ForwardProcess]:
    """The folder, network and process of the model that `run` names, as it is stored: on the CPU, in float32."""
    folder = _folder_of(config)
    return folder, *stored.load(folder, allow=config.allow)


def _folder_of(config: DictConfig) -> Path:
    store = models.ModelStore(config.paths.outputs)
    if OmegaConf.is_missing(config, "run"):
        raise ValueError(f"say which model with run=<key>: there is {store.listed()}.")
    path = Path(config.run)
    if path.exists() and not exchange.ours(path):
        return exchange.adopt(exchange.read(path, config.like), store, str(path))
    return store.find(config.run, results.model)


def _clip_as_its_own(config: DictConfig, stored: dict[str, Any]) -> None:
    """A model whose own sampler clips is sampled so, unless the words of the command name solver.clip_x0."""
    own = stored.get("adopted", {}).get("clip_x0", False)
    if own and "solver.clip_x0" not in typed() and "solver" in config and "clip_x0" in config.solver:
        config.solver.clip_x0 = True
        log.info("x0 is clipped to [-1, 1], as by the model's own sampler; solver.clip_x0=false leaves it")


def require_training_data(model: OpenedModel, images: "ImageSet") -> None:
    """Raise ValueError unless these are the images that the model was trained on: distances compare with them."""
    require_own_form(model, images)
    trained_on = stored.read_config(model.folder, foreign=True)["dataset"]
    fingerprint = trained_on.get("fingerprint")
    if fingerprint is None:
        log.warning("the model was trained elsewhere: that these are images like its own is taken on trust")
        return
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

"""What the main job is made of, built in the order of what it costs to import.

A tau that cannot be is refused when torch is there, a folder of broken images before Lightning is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from skipstone import engine, rng
from skipstone.commands.cli import expected
from skipstone.commands.grid import Suited, build_cells, choose_taus
from skipstone.engine.step import predict
from skipstone.evaluation.cells import Cell
from skipstone.network import placement
from skipstone.network.unet import UNet, VelocityUNet
from skipstone.process import ForwardProcess, process_of
from skipstone.rng import Stream
from skipstone.training.recipe import Recipe

if TYPE_CHECKING:
    from skipstone.data import ImageSet


@dataclass(frozen=True)
class Plan:
    """A checked configuration's parts.

    trainer: resolved settings.  cells: what is sampled in the end, of the model.  watched: what is sampled at
    each validation.
    net: with its first weights.  recipe: how it is trained.
    """

    trainer: dict[str, Any]
    process: ForwardProcess
    cells: Callable[[Suited], list[Cell]]
    watched: list[Cell]
    net: nn.Module
    recipe: Recipe
    images: "ImageSet"


def make(config: DictConfig, multirun: bool) -> Plan:
    """The parts of a configuration that settings.check has passed; multirun: whether it is one of several jobs.

    trainer.threads take effect here, and nfe sets config.tau. Raises ValueError or OSError for what does not fit
    together, or is not there.
    """
    trainer = placement.resolve(OmegaConf.to_container(config.trainer, resolve=True))
    placement.use_threads(trainer["threads"])
    process, grid = process_of(instantiate(config.noise)), config.evaluation
    choose_taus(config, process)
    whole = not multirun if grid.grid == "auto" else grid.grid  # a multirun's jobs are the grid
    asked = (grid.taus, grid.etas, grid.schedules) if whole else ([], [], None)
    cells = build_cells(config, process, *asked)
    watched = build_cells(config, process, grid.training.taus, grid.training.etas)
    for cell in (*cells, *watched):
        engine.require_noise(cell.table)
    net, recipe = _network(config), _recipe(config)
    if config.guidance is not None:
        _require_guided(net, recipe, config.guidance)
    if recipe.predicts == "x0" and isinstance(net, VelocityUNet):
        raise ValueError(
            "training.predicts=x0 is for a network that gives x0, and skipstone.VelocityUNet gives v: set it to v, or "
            "choose model=unet_cifar10."
        )
    instantiate(config.logger)  # a tracker that takes no login says so before data is read
    dataset = OmegaConf.to_container(config.dataset, resolve=True)
    images = keep("images", dataset, lambda: instantiate(config.dataset))
    _require_classes(net, images)
    _require_network(net, (*cells, *watched), images.shape, placement.device(trainer))
    return Plan(trainer, process, partial(build_cells, config, process, *asked), watched, net, recipe, images)


def _require_guided(net: nn.Module, recipe: Recipe, guidance: float) -> None:
    """Raise ValueError unless the network will be trained with labels, and without."""
    if not getattr(net, "classes", 0):
        raise ValueError(f"guidance={guidance:g} is for a network with classes: set model.classes, or leave it out.")
    if recipe.label_dropout == 0:
        raise ValueError(
            f"guidance={guidance:g} needs a network that is also trained without labels: set training.label_dropout "
            "above 0."
        )


def _require_classes(net: nn.Module, images: "ImageSet") -> None:
    """Raise ValueError unless a network with classes has those of the data."""
    classes = getattr(net, "classes", 0)
    if not classes or classes == images.classes:
        return
    if images.classes is None:
        raise ValueError(
            f"model.classes={classes} needs labels, and dataset {images.name} has none: set model.classes=null, or "
            "sort the images into sub-folders, one a class."
        )
    raise ValueError(
        f"model.classes={classes} does not fit dataset {images.name}, whose labels are of {images.classes} classes: "
        f"set model.classes={images.classes}."
    )


def _recipe(config: DictConfig) -> Recipe:
    try:
        return Recipe(**config.training)
    except TypeError as error:
        raise ValueError(f"the training settings do not work: {error}") from error


def _network(config: DictConfig) -> nn.Module:
    """The network with its first weights, which are a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.fold(config.seed, Stream.WEIGHTS, 0))
        return instantiate(config.model)


def _require_network(net: nn.Module, cells: Sequence[Cell], shape: tuple[int, int, int], device: torch.device) -> None:
    """Call a network of the user's own once with each kind of t that it will be asked at, before it is trained.

    Training asks it at whole steps, int64, and a table of real times at float64. Raises ValueError where it fails, or
    gives another thing than eps.
    """
    if isinstance(net, UNet) and type(net).__module__.startswith("skipstone."):
        return
    net.to(device)
    labels = torch.zeros(2, dtype=torch.int64, device=device) if engine.classes_of(net) else None
    for dtype in dict.fromkeys([torch.int64, *(cell.table.t.dtype for cell in cells)]):
        try:
            with engine.evaluating(net), torch.no_grad():
                predict(net, torch.zeros(2, *shape, device=device), torch.zeros(2, dtype=dtype, device=device), labels)
        except Exception as error:
            if expected(error):
                raise
            kind, remedy = "whole steps, in which it is trained", "let its forward take them"
            if dtype.is_floating_point:
                kind = "real times"
                remedy += ", or choose a schedule and a solver of whole steps"
            raise ValueError(
                f"the network {type(net).__name__} fails at t of {kind} ({dtype}; {type(error).__name__}: {error}): "
                f"{remedy}."
            ) from error
    net.cpu()


_kept: dict[str, tuple[Any, Any]] = {}


def keep(kind: str, key: Any, make: Callable[[], Any]) -> Any:
    """What `make` gives, or gave for the same key the last time: a multirun's jobs share data and model in memory."""
    if kind not in _kept or _kept[kind][0] != key:
        _kept.pop(kind, None)  # the old one first: two may not fit
        _kept[kind] = key, make()
    return _kept[kind][1]

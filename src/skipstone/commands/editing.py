"""Where scripts/sample.py begins: with noise of one's own, with images to change, with pixels that stay."""

from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from skipstone import engine, solvers
from skipstone.commands.finished import OpenedModel
from skipstone.commands.grid import make_schedule
from skipstone.data.arrays import read_images, read_mask, read_start
from skipstone.engine.known import landings
from skipstone.solvers import StepTable


@dataclass(frozen=True)
class Beginning:
    """What is run.

    table:  from where the samples begin.
    first:  the number of the first sample.
    images: what sample k is made from, [n, C, H, W]; None where it is noise alone.
    start:  where it begins, [n, C, H, W]; None is the seed's noise.
    mask:   where the images stay, bool [n, C, H, W].
    """

    table: StepTable
    first: int
    images: Tensor | None = None
    start: Tensor | None = None
    mask: Tensor | None = None

    def asked(self, n: int) -> dict[str, Any]:
        """The arguments of engine.sample for the first n samples."""
        known = None if self.mask is None else (self.images[:n], self.mask[:n])
        return {"first": self.first, "start": None if self.start is None else self.start[:n], "known": known}


def beginning(config: DictConfig, model: OpenedModel, table: StepTable) -> Beginning:
    """As the settings ask. table: of the whole schedule.

    Raises ValueError and OSError for files and settings that are not possible.
    """
    _require_together(config)
    if config.start is not None:
        return Beginning(table, config.first, start=read_start(config.start, config.n, model.shape))
    if config.image is None:
        return Beginning(table, config.first)
    images = read_images(config.image, model.shape)
    turns = torch.arange(config.first, config.first + config.n) % len(images)
    x0 = images[turns].to(model.device)
    start = mask = None
    if config.mask is not None:
        mask = read_mask(config.mask, images)[turns].to(model.device)
    if config.mask is None or (config.strength or 1) < 1:
        table = _weaker(config, model)
        start = engine.diffused(table, x0, seed=config.seed, first=config.first)
    if config.jump_n_sample > 1:
        table = solvers.resampled(model.process, table, config.jump_n_sample, config.jump_length)
    if mask is not None:
        landings(table)  # refuses a table that known pixels cannot have
    return Beginning(table, config.first, x0, start, mask)


def _require_together(config: DictConfig) -> None:
    if config.start is not None and config.image is not None:
        raise ValueError("start= and image= both tell where samples begin: leave one of them out.")
    for key in ("strength", "mask"):
        if config[key] is not None and config.image is None:
            raise ValueError(f"{key}={config[key]} needs images: name them with image=.")
    if config.image is not None and config.strength is None and config.mask is None:
        raise ValueError("image= needs strength=, how far images are changed (0.6), or mask=, what of them stays.")
    if config.strength is not None and not 0 < config.strength <= 1:
        raise ValueError(f"strength={config.strength} is not allowed: it is a number above 0 and at most 1.")
    if config.mask is None and (config.jump_n_sample > 1 or config.jump_length > 1):
        raise ValueError("jump_n_sample and jump_length are for inpainting: name a mask with mask=, or leave them out.")


def _weaker(config: DictConfig, model: OpenedModel) -> StepTable:
    """The table of the schedule's steps up to t = strength · T − 1, so that a multistep solver begins there."""
    num_steps = model.process.num_steps
    steps = make_schedule(config, model.process, config.tau, model)(num_steps)
    kept = [t for t in steps if t <= (config.strength + 1e-9) * num_steps - 1]
    if not kept:
        raise ValueError(
            f"strength={config.strength} reaches no step of the schedule, so nothing would change: raise it, or visit "
            "more steps."
        )
    table = instantiate(config.solver).table(model.process, kept)
    return table if config.guidance is None else solvers.guided(table, config.guidance, config.guidance_interval)

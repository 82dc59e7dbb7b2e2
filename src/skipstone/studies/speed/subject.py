"""What is measured: the network, recipe and hardware settings of a job, from overrides as for train.py."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from skipstone.commands.schema import CONF, require_known
from skipstone.commands.settings import check
from skipstone.data import ImageSet
from skipstone.network import compiling, placement
from skipstone.process import ForwardProcess, process_of
from skipstone.training.module import Recipe


@dataclass(frozen=True)
class Subject:
    """A composed job. settings: its trainer group, resolved."""

    config: DictConfig
    settings: dict[str, Any]

    @classmethod
    def of(cls, overrides: list[str]) -> "Subject":
        """The job of these overrides; its threads take effect here. Raises ValueError for wrong settings."""
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", overrides)
        require_known(config, "train", overrides, {})
        check(config)
        compiling.keep_under(config.paths.outputs)
        settings = placement.resolve(OmegaConf.to_container(config.trainer, resolve=True))
        placement.use_threads(settings["threads"])
        return cls(config, settings)

    @property
    def device(self) -> torch.device:
        """The one that it runs on."""
        return placement.device(self.settings)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        size = self.config.dataset.image_size
        return self.config.dataset.channels, size, size

    @cached_property
    def images(self) -> ImageSet:
        """The data, read when it is first wanted: sampling wants none."""
        return instantiate(self.config.dataset)

    @cached_property
    def process(self) -> ForwardProcess:
        """Of its β."""
        return process_of(instantiate(self.config.noise))

    @property
    def recipe(self) -> Recipe:
        """How it trains."""
        return Recipe(**self.config.training)

    def network(self) -> nn.Module:
        """A new one, on the CPU and not compiled; the same weights at every call, none of which is zero."""
        torch.manual_seed(0)
        net = instantiate(self.config.model)
        for parameter in net.parameters():
            if not parameter.any():  # fresh output layers are, and zeros may be multiplied faster than numbers
                nn.init.normal_(parameter, std=0.02)
        return net

    @cached_property
    def flop(self) -> int:
        """Of one evaluation of one image by the plain network: multiplications and additions of all its products."""
        net = instantiate(self.config.model).to("meta")  # where no time is spent and no operator has a twin for CPUs
        x, t = torch.empty(1, *self.shape, device="meta"), torch.empty(1, dtype=torch.int64, device="meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(x, t)
        return counter.get_total_flops()

"""Shared pieces. Threads are few and do not spin, so that tests that start processes stay fast."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["WANDB_MODE"] = "offline"

import pytest
import torch
from hydra import compose, initialize_config_dir

from skipstone import ForwardProcess, UNet, noise
from skipstone.commands.cli import CONF


@pytest.fixture(scope="session")
def process():
    return ForwardProcess(noise.linear())


@pytest.fixture
def net():
    """A small UNet whose every weight matters: freshly built ones predict zero."""
    torch.manual_seed(0)
    net = UNet(16, 1, base=8, multipliers=(1, 2), blocks=1, attention=(8,)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


@pytest.fixture
def two_peaks(process):
    """ε of data whose every pixel is N(±1, 0.3²)."""

    def eps(x, t):
        alpha_bar = process.alpha_bar(t).view(-1, 1, 1, 1).to(x.dtype)
        variance = 0.09 * alpha_bar + 1 - alpha_bar
        mean = torch.tanh(alpha_bar.sqrt() * x / variance)
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / variance

    return eps


@pytest.fixture(scope="session")
def composed():
    """Hydra's composition, as train.py or another command gets it: composed("schedule=exp", ..., config="sample")."""

    def with_overrides(*overrides, config="train"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(config, overrides=list(overrides))

    return with_overrides

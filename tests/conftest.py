"""Shared pieces. Threads are few and do not spin, so that tests that start processes stay fast."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers on two cores would else wait for each other
os.environ["WANDB_MODE"] = "offline"

import pytest
import torch
from hydra import compose, initialize_config_dir

from skipstone import ForwardProcess, UNet, noise
from skipstone.commands.cli import CONF

# The files that take longest. They begin first, so that at the end no worker waits for another.
LONGEST = (
    "test_bad_inputs", "test_sweep", "test_launchers", "test_survival", "test_devices", "test_locks", "test_suspended",
    "test_command_line", "test_commands", "test_words", "test_benchmark", "test_claims", "test_exchange_commands",
    "test_trained", "test_results", "test_metrics", "test_quality", "test_kernels", "test_gits", "test_training",
    "test_unet", "test_edm",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


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

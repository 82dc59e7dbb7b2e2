"""Skipstone: train a small ε-predictor with the DDPM objective, sample it at any stride and any noise with DDIM."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipstone import engine, noise, schedules, solvers
    from skipstone.exchange import load
    from skipstone.network.adapt import adapt
    from skipstone.network.unet import UNet, VelocityUNet
    from skipstone.process import ForwardProcess
    from skipstone.solvers import prove

__all__ = [
    "ForwardProcess", "UNet", "VelocityUNet", "adapt", "engine", "load", "noise", "prove", "schedules", "solvers",
]  # fmt: skip

__version__ = "0.1.0"

_HOMES = {
    "ForwardProcess": "process",
    "UNet": "network.unet",
    "VelocityUNet": "network.unet",
    "adapt": "network.adapt",
    "load": "exchange",
    "prove": "solvers",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that commands can answer --help before torch is loaded."""
    if name not in __all__:
        raise AttributeError(f"module 'skipstone' has no attribute {name!r}")
    module = import_module(f"skipstone.{_HOMES.get(name, name)}")
    return getattr(module, name) if name in _HOMES else module

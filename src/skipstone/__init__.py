"""Skipstone: train a small ε-predictor, sample it at any stride and any noise with DDIM.

The default trains DDPM's objective with min-SNR weights and Muon, and reads ε from a v-network.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipstone import engine, noise, schedules, solvers
    from skipstone.exchange import load
    from skipstone.network.adapt import adapt
    from skipstone.network.placement import fast
    from skipstone.network.unet import UNet, VelocityUNet
    from skipstone.process import EDM, ForwardProcess
    from skipstone.solvers import prove

__all__ = [
    "EDM", "ForwardProcess", "UNet", "VelocityUNet",
    "adapt", "engine", "fast", "load", "noise", "prove", "schedules", "solvers",
]  # fmt: skip

__version__ = "0.1.0"

_HOMES = {
    "EDM": "process",
    "ForwardProcess": "process",
    "UNet": "network.unet",
    "VelocityUNet": "network.unet",
    "adapt": "network.adapt",
    "fast": "network.placement",
    "load": "exchange",
    "prove": "solvers",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that commands can answer --help before torch is loaded."""
    if name not in __all__:
        raise AttributeError(f"module 'skipstone' has no attribute {name!r}")
    module = import_module(f"skipstone.{_HOMES.get(name, name)}")
    return getattr(module, name) if name in _HOMES else module


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

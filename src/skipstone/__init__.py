"""Skipstone: train a small ε-predictor with the DDPM objective, sample it at any stride and any noise with DDIM."""

from skipstone import engine, noise, schedules, solvers
from skipstone.process import ForwardProcess
from skipstone.unet import UNet

__all__ = ["ForwardProcess", "UNet", "engine", "noise", "schedules", "solvers"]
__version__ = "0.1.0"

"""Schedules: which steps a sampler visits. Those of `steps` follow a rule, `GITS` suits one model."""

from skipstone.schedules.gits import GITS, Costs
from skipstone.schedules.steps import (
    Custom,
    Exp,
    Karras,
    Leading,
    Linspace,
    LogSNR,
    Polynomial,
    Quad,
    Schedule,
    TimeUniform,
    Trailing,
    Uniform,
)

__all__ = [
    "GITS",
    "Costs",
    "Custom",
    "Exp",
    "Karras",
    "Leading",
    "Linspace",
    "LogSNR",
    "Polynomial",
    "Quad",
    "Schedule",
    "TimeUniform",
    "Trailing",
    "Uniform",
]

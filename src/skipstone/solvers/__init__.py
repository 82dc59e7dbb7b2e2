"""Solvers: each turns (process, visited steps) into a table of coefficients that the engine runs."""

from skipstone.solvers.multistep import AdamsBashforth, DPMSolverPP
from skipstone.solvers.reach import reach
from skipstone.solvers.single import DDIM, ProbabilityFlow
from skipstone.solvers.table import Solver, StepTable

__all__ = ["DDIM", "AdamsBashforth", "DPMSolverPP", "ProbabilityFlow", "Solver", "StepTable", "reach"]

"""Solvers: each turns (process, visited steps) into a table of coefficients that the engine runs."""

from skipstone.solvers.afs import AFS
from skipstone.solvers.belm import BELM
from skipstone.solvers.conditions import Conditions
from skipstone.solvers.corrected import SASolver, SDEDPMSolverPP, UniPC
from skipstone.solvers.edict import EDICT
from skipstone.solvers.gaussian import Convergence, convergence
from skipstone.solvers.guided import guided
from skipstone.solvers.multistep import DEIS, AdamsBashforth, DPMSolverPP
from skipstone.solvers.portable import load_table, save_table
from skipstone.solvers.program import Program
from skipstone.solvers.programmed import DPMSolver, Heun
from skipstone.solvers.proof import Proof, amplification, between_noise, prove
from skipstone.solvers.reach import reach
from skipstone.solvers.repaint import resampled
from skipstone.solvers.restart import Restart
from skipstone.solvers.single import DDIM, ProbabilityFlow
from skipstone.solvers.stored import Fitted, Stored
from skipstone.solvers.table import Solver, StepTable

__all__ = [
    "AFS",
    "BELM",
    "DDIM",
    "DEIS",
    "EDICT",
    "AdamsBashforth",
    "Conditions",
    "Convergence",
    "DPMSolver",
    "DPMSolverPP",
    "Fitted",
    "Heun",
    "ProbabilityFlow",
    "Program",
    "Proof",
    "Restart",
    "SASolver",
    "SDEDPMSolverPP",
    "Solver",
    "StepTable",
    "Stored",
    "UniPC",
    "amplification",
    "between_noise",
    "convergence",
    "guided",
    "load_table",
    "prove",
    "reach",
    "resampled",
    "save_table",
]

"""What comes out, measured: honest proxies, each with its floor. A proxy is never named FID."""

from skipstone.metrics.distances import frechet, kernel
from skipstone.metrics.features import RandomFeatures
from skipstone.metrics.proxies import Proxies
from skipstone.metrics.solver_error import fine_solution, solver_rmse

__all__ = ["Proxies", "RandomFeatures", "fine_solution", "frechet", "kernel", "solver_rmse"]

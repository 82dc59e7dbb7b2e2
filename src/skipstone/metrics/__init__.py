"""What comes out, measured: honest proxies, each with its floor. A proxy is never named FID."""

from skipstone.metrics.classifier import ClassifierFeatures, ensure_classifier
from skipstone.metrics.distances import extrapolated, frechet, kernel
from skipstone.metrics.features import Extractor, RandomFeatures
from skipstone.metrics.inception import InceptionFeatures
from skipstone.metrics.nearest import Memorisation, MemoryCheck, nearest
from skipstone.metrics.proxies import Proxies
from skipstone.metrics.ranks import rank_correlation
from skipstone.metrics.solver_error import fine_solution, solver_rmse

__all__ = [
    "ClassifierFeatures",
    "Extractor",
    "InceptionFeatures",
    "Memorisation",
    "MemoryCheck",
    "Proxies",
    "RandomFeatures",
    "ensure_classifier",
    "extrapolated",
    "fine_solution",
    "frechet",
    "kernel",
    "nearest",
    "rank_correlation",
    "solver_rmse",
]

"""What comes out, measured: honest proxies, each with its floor. A proxy is never named FID."""

from skipstone.evaluation.metrics.classifier import ClassifierFeatures, ensure_classifier
from skipstone.evaluation.metrics.distances import extrapolated, frechet, frechet_replicates, kernel, kernel_replicates
from skipstone.evaluation.metrics.features import Extractor, RandomFeatures
from skipstone.evaluation.metrics.inception import InceptionFeatures
from skipstone.evaluation.metrics.metric import AGREEMENT, SOLVER_RMSE, Measured, Metric
from skipstone.evaluation.metrics.nearest import Memorisation, MemoryCheck, nearest
from skipstone.evaluation.metrics.proxies import Proxies
from skipstone.evaluation.metrics.ranks import rank_correlation
from skipstone.evaluation.metrics.solver_error import solver_rmse

__all__ = [
    "AGREEMENT",
    "SOLVER_RMSE",
    "ClassifierFeatures",
    "Extractor",
    "InceptionFeatures",
    "Measured",
    "Memorisation",
    "MemoryCheck",
    "Metric",
    "Proxies",
    "RandomFeatures",
    "ensure_classifier",
    "extrapolated",
    "frechet",
    "frechet_replicates",
    "kernel",
    "kernel_replicates",
    "nearest",
    "rank_correlation",
    "solver_rmse",
]

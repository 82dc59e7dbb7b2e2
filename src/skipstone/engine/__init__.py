"""The engine runs step tables on a model. It knows nothing of DDIM, eta or schedules.

Noise belongs to the sample: start noise is keyed by (seed, k) and step noise by (seed, k, t), so sample k is the same
whatever n, the batch and the other samples are, and two tables that visit the same step share its noise.
"""

from skipstone.engine.inversion import Inversion, invert, require_invertible
from skipstone.engine.packing import sample_many
from skipstone.engine.request import LARGEST_DEFAULT_BATCH
from skipstone.engine.sampling import Step, sample, slerp, trajectory
from skipstone.engine.step import Model, evaluating, warm_up

__all__ = [
    "LARGEST_DEFAULT_BATCH",
    "Inversion",
    "Model",
    "Step",
    "evaluating",
    "invert",
    "require_invertible",
    "sample",
    "sample_many",
    "slerp",
    "trajectory",
    "warm_up",
]

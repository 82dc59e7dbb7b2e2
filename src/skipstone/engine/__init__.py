"""The engine runs step tables on a model. It knows nothing of DDIM, eta or schedules.

Noise belongs to the sample: start noise is keyed by (seed, k), and step noise by (seed, k, t) and by how often t came
before. So sample k does not depend on n, on the batch or on the other samples, and two tables that visit the same step
share its noise.

To read: `reference.py` is DDIM in a dozen lines, `step.py` is one row of a table, `sampling.py` is the loop over rows.
"""

from skipstone.engine.finite import NotFinite, not_finite
from skipstone.engine.inversion import Inversion, invert, require_invertible
from skipstone.engine.packing import sample_many
from skipstone.engine.request import LARGEST_DEFAULT_BATCH, require_noise
from skipstone.engine.sampling import Step, sample, sample_pair, slerp, trajectory
from skipstone.engine.step import Model, evaluating, warm_up

__all__ = [
    "LARGEST_DEFAULT_BATCH",
    "Inversion",
    "Model",
    "NotFinite",
    "Step",
    "evaluating",
    "invert",
    "not_finite",
    "require_invertible",
    "require_noise",
    "sample",
    "sample_many",
    "sample_pair",
    "slerp",
    "trajectory",
    "warm_up",
]

"""solver_rmse: how far a deterministic cell lands from its own fine-step solution, sample by sample.

It needs no features, and it tells the solver's error apart from the model's: 0 is the best, also for a poor model. Most
of it can come from a few samples that end elsewhere than their solution: the median and the spread beside it show that.
"""

from torch import Tensor

from skipstone.evaluation.metrics import jackknife
from skipstone.evaluation.metrics.metric import SOLVER_RMSE, Measured


def solver_rmse(samples: Tensor, fine: Tensor) -> Measured:
    """Root mean square difference in the [−1, 1] scale over the samples that both have. float [N, C, H, W] each.

    The median is that of the samples' own root mean square differences.
    """
    n = min(len(samples), len(fine))
    squares = (samples[:n] - fine[:n]).double().square().flatten(1).mean(dim=1)
    replicates = [float(squares[some].mean().sqrt()) for some in jackknife.kept(n)]
    return Measured.of(
        SOLVER_RMSE, float(squares.mean().sqrt()), replicates, median=float(squares.sqrt().quantile(0.5))
    )

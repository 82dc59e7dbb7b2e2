"""solver_rmse: how far a deterministic cell lands from its own fine-step solution, sample by sample.

It needs no features and has no sampling noise, and it tells the solver's error apart from the model's: 0 is the best,
also for a poor model.
"""

import torch
from torch import Tensor


def solver_rmse(samples: Tensor, fine: Tensor) -> float:
    """Root mean square difference in the [−1, 1] scale over the samples that both have. float [N, C, H, W] each."""
    n = min(len(samples), len(fine))
    return float(torch.sqrt((samples[:n] - fine[:n]).double().square().mean()))

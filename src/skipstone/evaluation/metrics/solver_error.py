"""solver_rmse: how far a deterministic cell lands from its own fine-step solution, sample by sample.

It needs no features and has no sampling noise, and it tells the solver's error apart from the model's: 0 is the best,
also for a poor model.
"""

import torch
from torch import Tensor

from skipstone import engine
from skipstone.engine import Model
from skipstone.process import ForwardProcess
from skipstone.solvers import DDIM


def fine_solution(
    model: Model,
    process: ForwardProcess,
    n: int,
    shape: tuple[int, ...],
    seed: int,
    batch_size: int,
    to_data: bool,
    clip_x0: bool,
) -> Tensor:
    """Samples 0 … n−1 by DDIM over every one of the T steps: float32 [n, C, H, W]. The last two as for DDIM."""
    table = DDIM(eta=0.0, to_data=to_data, clip_x0=clip_x0).table(process, range(process.num_steps))
    return engine.sample(model, table, n, shape, seed=seed, batch_size=batch_size)


def solver_rmse(samples: Tensor, fine: Tensor) -> float:
    """Root mean square difference in the [−1, 1] scale over the samples that both have. float [N, C, H, W] each."""
    n = min(len(samples), len(fine))
    return float(torch.sqrt((samples[:n] - fine[:n]).double().square().mean()))

"""DDIM as the paper has it, for reading and for tests. The engine's own loops are held against it.

Nothing here is fast or careful: one table-free loop over the visited steps, in the symbols of Song et al. 2021. The
paper writes α for ᾱ.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from skipstone.engine.step import Model
from skipstone.process import ForwardProcess


@torch.no_grad()
def ddim(
    model: Model,
    process: ForwardProcess,
    timesteps: Sequence[int],
    x: Tensor,
    eta: float,
    noise: Callable[[int], Tensor],
    to_data: bool = True,
) -> Tensor:
    """Generalised DDIM (Song et al. 2021, Eq. 12) from the last visited step to the first, and on to clean data.

    model:     eps = model(x, t), t int64 [N].
    timesteps: the visited steps τ, ascending ints in 0 … T−1.
    x:         start noise, float [N, C, H, W].
    eta:       noise level in 0 … 1: 0 is DDIM, 1 is DDPM.
    noise:     noise(t) is z of the step that leaves t, like x.
    to_data:   take the last step to clean data, where ᾱ = 1.
    Returns float [N, C, H, W] like x.
    """
    for t, p in pairwise([*reversed(timesteps), *([-1] if to_data else [])]):
        alpha_bar_t, alpha_bar_p = process.alpha_bar(t), process.alpha_bar(p)
        sigma = eta * ((1 - alpha_bar_p) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_p)).sqrt()  # Eq. 16
        eps = model(x, torch.full((len(x),), t))
        predicted_x0 = (x - (1 - alpha_bar_t).sqrt() * eps) / alpha_bar_t.sqrt()  # Eq. 9
        direction_to_x_t = (1 - alpha_bar_p - sigma**2).clamp(min=0).sqrt() * eps  # rounding may go below 0
        x = alpha_bar_p.sqrt() * predicted_x0 + direction_to_x_t + sigma * noise(t)  # Eq. 12
    return x

"""The two optimizers of a recipe: AdamW, and Muon for the matrices that a UNet mostly is."""

import math
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from skipstone.training.recipe import Recipe

# Newton and Schulz's iteration as Jordan et al. (2024) tuned it: five steps take singular values to about 1.
_A, _B, _C, _STEPS = 3.4445, -4.7750, 2.0315, 5
_MOMENTUM = 0.95
_RMS = 0.2  # of an update over the learning rate: about AdamW's, so that rates carry over (Liu et al. 2025, Eq. 4)
_EDGES = ("conv_in.", "conv_out.")  # first and last layer: a picture's channels are no hidden directions
_BETAS = (0.9, 0.99)  # of what Muon leaves to AdamW: at high rates the second moment must not lag


def build(net: nn.Module, recipe: Recipe, fused: bool) -> torch.optim.Optimizer:
    """The recipe's optimizer of all parameters, in their order. fused: AdamW in one kernel."""
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": fused}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(net.parameters(), **settings)
    matrices = [p for name, p in net.named_parameters() if p.ndim in (2, 4) and not name.startswith(_EDGES)]
    return Muon(net.parameters(), matrices, **settings)


class Muon(torch.optim.AdamW):
    """AdamW, but for matrices: they move along the nearest orthogonal matrix to their gradients' average.

    A matrix G = U S Vᵀ of averaged gradients becomes U Vᵀ, so that all its directions are learned at one rate (Jordan
    et al. 2024, "Muon: an optimizer for hidden layers in neural networks"). torch has one, for parameters of two
    dimensions, one after the other; this one takes convolutions, too, and those of one shape together.

    params: all parameters.  matrices: those of them that are: [out, in], or [out, in, height, width] taken as out rows.
    The others are AdamW's, at the same rate and decay; in a network for pictures biases, norms, first and last layer.
    """

    def __init__(self, params: Any, matrices: list[nn.Parameter], **settings: Any) -> None:
        super().__init__(params, betas=_BETAS, **settings)
        self._matrices = sorted(matrices, key=lambda p: p.shape)  # neighbours are of one shape

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step of all parameters that have gradients; those of the matrices are used up by it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices = [p for p in self._matrices if p.grad is not None]
        if matrices:
            self._move(matrices)
            for p in matrices:
                p.grad = None  # so AdamW passes them over
        super().step()
        return loss

    def _move(self, matrices: list[nn.Parameter]) -> None:
        (group,) = self.param_groups
        for p in matrices:
            if "momentum" not in self.state[p]:
                # AdamW's restoring asks for a step
                self.state[p].update(step=torch.tensor(0.0), momentum=torch.zeros_like(p))
        gradients, averages = [p.grad for p in matrices], [self.state[p]["momentum"] for p in matrices]
        torch._foreach_lerp_(averages, gradients, 1 - _MOMENTUM)
        ahead = torch._foreach_lerp(gradients, averages, _MOMENTUM)  # Nesterov's
        moves = []
        for shape, alike in groupby(ahead, key=lambda move: move.shape):
            directions = orthogonalised(torch.stack([_rows(move) for move in alike]))
            directions.mul_(-group["lr"] * _RMS * math.sqrt(max(directions.shape[1:])))
            moves += [_unrows(direction, shape) for direction in directions]
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, moves)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Of each G = U S Vᵀ of full rank roughly U Vᵀ: singular values between 0.7 and 1.2, but for the very smallest.

    matrices: float [k, rows, columns], each of its own size of numbers.  Returns the same shape in float32. On a GPU it
    is computed in bfloat16, because the iteration needs little precision; on a processor float32 is faster.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    # no singular value above 1; what is so small that its squares underflow stays small
    x = (x / x.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]).to(
        torch.bfloat16 if x.is_cuda else torch.float32
    )
    for _ in range(_STEPS):  # x ← a x + b (x xᵀ) x + c (x xᵀ)² x
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return (x.mT if tall else x).float()


def _rows(weight: Tensor) -> Tensor:
    """A weight as a matrix. A convolution's columns are in channels_last's order, which for that memory moves nothing;
    what is orthogonal does not depend on it."""
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight


def _unrows(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Back from _rows."""
    if len(shape) == 2:
        return matrix
    out, channels, height, width = shape
    return matrix.reshape(out, height, width, channels).permute(0, 3, 1, 2)

"""Samples that begin with an image: a start at some noise, and pixels that are known all the way (RePaint)."""

from typing import NamedTuple

import torch
from torch import Tensor

from skipstone.checked import checked
from skipstone.engine.request import require_first, take
from skipstone.rng import Stream, normal
from skipstone.solvers import StepTable


class Known(NamedTuple):
    """x0 and mask, each [n, C, H, W]: the images, and where they are known (bool)."""

    x0: Tensor
    mask: Tensor

    @classmethod
    def of(cls, known: tuple[Tensor, Tensor], shape: tuple[int, ...]) -> "Known":
        """Both, spread to this shape [n, C, H, W]. Raises ValueError for what is not allowed."""
        if len(known) != 2 or known[1].dtype != torch.bool:
            raise ValueError("known must be (x0, mask): images of floats, and bools, true where x0 is known.")
        x0, mask = known
        if not x0.is_floating_point() or not bool(x0.isfinite().all()):
            raise ValueError("known has an x0 that is not of finite floats: give images in the [-1, 1] scale.")
        try:
            return cls(x0.expand(shape), mask.expand(shape))
        except RuntimeError as error:
            raise ValueError(
                f"known has shapes {tuple(x0.shape)} and {tuple(mask.shape)}, and both must be {tuple(shape)}, or "
                "1 in some places of it."
            ) from error

    def at(self, places: Tensor, like: Tensor) -> "Known":
        """Those of some samples, x0 as `like` is; a place past the end (padding) is the last one."""
        return Known(take(self.x0, places, dim=0).to(like), take(self.mask, places, dim=0).to(like.device))

    def kept(self, x: Tensor, signal: float | Tensor, noise: float | Tensor, z: Tensor) -> Tensor:
        """x, but where x0 is known a draw from q(x_p | x0) (Lugmayr et al. 2022, Eq. 8a and 8c).

        z is the row's own noise. It serves both parts, because no pixel is in both.
        """
        return torch.where(self.mask, signal * self.x0 + noise * z, x)


def landings(table: StepTable) -> Tensor:
    """√ᾱ_p and √(1−ᾱ_p) of the step on which each row lands: float64 [S, 2].

    Raises ValueError for a table whose states between rows are not all at the noise of their step, and for one that
    ends before clean data.
    """
    chained = torch.equal(table.p[:-1], table.t[1:]) and torch.equal(table.f, table.t)
    if table.c.numel() or not chained or table.p[-1] != -1:
        raise ValueError(
            "known pixels need a table of one-step rows down to clean data: use solver=ddim or probability_flow, with "
            "solver.to_data=true."
        )
    between = torch.stack([table.sqrt_alpha_bar[1:], table.sqrt_one_minus_alpha_bar[1:]], dim=1)
    return torch.cat([between, between.new_tensor([[1.0, 0.0]])])


@checked
def diffused(table: StepTable, x0: Tensor, *, seed: int = 0, first: int = 0) -> Tensor:
    """Where the table starts if it is to change images: a draw from q(x_t | x0) at its first t, with each sample's own
    start noise. That is SDEdit (Meng et al. 2022), and img2img; `sample` takes it as `start`.

    table: up to the noise that the images get, such as solver.table(process, [t for t in steps if t < 600]).
    x0:    float [n, C, H, W] in the [−1, 1] scale, finite.
    seed:  as for `sample`.
    first: which sample the first image is.
    Returns [n, C, H, W] like x0.
    """
    if x0.ndim != 4 or not x0.is_floating_point() or not bool(x0.isfinite().all()):
        raise ValueError("x0 must be finite floats [n, C, H, W] in the [-1, 1] scale: use x / 127.5 - 1 for bytes.")
    require_first(first, len(x0))
    index = torch.arange(first, first + len(x0), device=x0.device)
    z = normal(seed, Stream.START, index, tuple(x0.shape[1:]), dtype=x0.dtype)
    return float(table.sqrt_alpha_bar[0]) * x0 + float(table.sqrt_one_minus_alpha_bar[0]) * z

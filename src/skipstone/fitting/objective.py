"""What a fit makes small: how far a table's samples are from the teacher's, from the same start noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from skipstone.fitting.pairs import Pairs
from skipstone.fitting.perception import Perception
from skipstone.process import ForwardProcess
from skipstone.solvers import StepTable

_REFERENCE = 256  # pairs over which the scale of each feature is found


class Objective:
    """A number without unit: 0 for the teacher itself, and about 1 for images that have nothing to do with it.

    Of each layer of each network, the mean over pairs of |f(x) − f(end)|², as a share of the variance of f(end). Each
    network's last layer counts also by its mean and covariance over the batch, which is what a Fréchet distance sees.
    They have the teacher's as their goal or, with `data`, those of real images: the goal of a batch is then moved by as
    much as the teacher's images as a whole lie apart from the real ones, so that start noise still cancels.

    moments: the weight of mean and covariance.
    points:  the weight of the mean squared error of the states on the way.
    data:    float [N, C, H, W] in [−1, 1], or None.
    """

    def __init__(
        self,
        pairs: Pairs,
        perception: Perception,
        process: ForwardProcess,
        moments: float = 1.0,
        points: float = 0.0,
        data: Tensor | None = None,
    ) -> None:
        self.pairs, self.perception, self.process = pairs, perception, process
        self.moments, self.points = moments, points
        with torch.no_grad():
            self._scales = [[f.var(dim=0).sum() for f in net] for net in perception(pairs.end[:_REFERENCE])]
            fine = self._whole(pairs.end)
            self._spreads = [covariance.square().sum() for _, covariance in fine]
            self._apart = [
                tuple(a - b for a, b in zip(of_data, of_fine, strict=True))
                for of_data, of_fine in zip(fine if data is None else self._whole(data), fine, strict=True)
            ]

    def _whole(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Mean and covariance of each network's last layer over all images."""
        parts = [[net[-1] for net in self.perception(part)] for part in images.split(_REFERENCE)]
        return [_moments(torch.cat(part)) for part in zip(*parts, strict=True)]

    def __call__(self, table: StepTable, states: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Of samples from the start noise of these pairs.

        states: the state after each row of the table, [n, C, H, W] each.
        rows:   int64 [n], n >= 2: which pairs.
        """
        with torch.no_grad():
            goals = self.perception(self.pairs.end[rows])
        parts, found = [], self.perception(states[-1])
        known = zip(self._scales, self._spreads, self._apart, strict=True)
        for net, goal, (scales, whole, apart) in zip(found, goals, known, strict=True):
            layers = [_off(f - y) / scale for f, y, scale in zip(net, goal, scales, strict=True)]
            (mean, covariance), (goal_mean, goal_covariance) = _moments(net[-1]), _moments(goal[-1])
            shifted = (mean - goal_mean - apart[0]).square().sum() / scales[-1]
            spread = (covariance - goal_covariance - apart[1]).square().sum() / whole
            parts.append(torch.stack(layers).mean() + self.moments * (shifted + spread))
        total = torch.stack(parts).mean()
        if self.points and len(states) > 1:
            ways = [_off((x - self.pairs.at(rows, t, self.process)).flatten(1)) / x[0].numel()
                    for x, t in zip(states[:-1], table.p[:-1], strict=True)]  # fmt: skip
            total = total + self.points * torch.stack(ways).mean()
        return total


def _off(difference: Tensor) -> Tensor:
    """The mean of the squares of [n, d] over n."""
    return difference.square().sum(dim=1).mean()


def _moments(f: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of f [n, d] over n."""
    return f.mean(dim=0), torch.cov(f.T)

"""What a fit makes small: how far the samples of a table are from the fine solution of the same start noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from skipstone.fitting.pairs import Pairs
from skipstone.fitting.perception import Perception
from skipstone.process import ForwardProcess
from skipstone.solvers import StepTable

_REFERENCE = 256  # pairs over which the scale of each feature is found


class Objective:
    """A number without unit: 0 for the fine solution, and about 1 for images that have nothing to do with it.

    Of each layer of each network, the mean over pairs of |f(x) − f(end)|², as a share of the variance of f(end). Each
    network's last layer counts also by its mean and covariance over the batch, which is what a Fréchet distance sees.

    moments: the weight of the latter.
    points:  the weight of the mean squared error of the states on the way.
    """

    def __init__(
        self,
        pairs: Pairs,
        perception: Perception,
        process: ForwardProcess,
        moments: float = 1.0,
        points: float = 0.0,
    ) -> None:
        self.pairs, self.perception, self.process = pairs, perception, process
        self.moments, self.points = moments, points
        with torch.no_grad():
            self._scales = [[f.var(dim=0).sum() for f in net] for net in perception(pairs.end[:_REFERENCE])]

    def __call__(self, table: StepTable, states: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Of samples from the start noise of these pairs.

        states: the state after each row of the table, [n, C, H, W] each.
        rows:   int64 [n], n >= 2: which pairs.
        """
        with torch.no_grad():
            goals = self.perception(self.pairs.end[rows])
        parts = []
        for net, goal, scales in zip(self.perception(states[-1]), goals, self._scales, strict=True):
            layers = [_off(f - y) / scale for f, y, scale in zip(net, goal, scales, strict=True)]
            parts.append(torch.stack(layers).mean() + self.moments * _moments(net[-1], goal[-1], scales[-1]))
        total = torch.stack(parts).mean()
        if self.points and len(states) > 1:
            ways = [_off((x - self.pairs.at(rows, t, self.process)).flatten(1)) / x[0].numel()
                    for x, t in zip(states[:-1], table.p[:-1], strict=True)]  # fmt: skip
            total = total + self.points * torch.stack(ways).mean()
        return total


def _off(difference: Tensor) -> Tensor:
    """The mean of the squares of [n, d] over n."""
    return difference.square().sum(dim=1).mean()


def _moments(f: Tensor, goal: Tensor, scale: Tensor) -> Tensor:
    """How far mean and covariance of f [n, d] are from those of the goal."""
    covariance, wanted = torch.cov(f.T), torch.cov(goal.T)
    mean = (f.mean(dim=0) - goal.mean(dim=0)).square().sum() / scale
    return mean + (covariance - wanted).square().sum() / wanted.square().sum()

"""Every loss of a training, watched without making the host wait for the device at each."""

import math

import torch
from torch import Tensor

LOOK = 50  # batches between looks, each of which waits for the device
_EXPLODED = 1e3  # a loss; a network that predicts nothing scores 1
_FORGOTTEN = 10.0  # the mean of LOOK losses, over the smallest such mean before


class LossWatch:
    """Finds where a training has diverged: at a loss that is no number or of no reasonable size, or that came down and
    has gone up again for good, for a network may also end in predicting nothing, at a loss of 1 for ever after.

    best: the smallest mean of LOOK losses or more so far.
    """

    def __init__(self) -> None:
        self.best = math.inf
        self._since: Tensor | None = None  # the first bad loss, counting it; 0: none. It stays on the device
        self._sum: Tensor | None = None  # of the losses since the last look at their mean, as many as
        self._count = 0

    def add(self, loss: Tensor) -> None:
        """Take a batch's loss into account: a scalar, which stays where it is."""
        loss = loss.detach()
        if self._since is None:
            self._since, self._sum = torch.zeros_like(loss, dtype=torch.int64), torch.zeros_like(loss)
        self._since = (self._since + 1) * ((self._since > 0) | ~(loss < _EXPLODED))  # NaN is not less
        self._sum = self._sum + loss
        self._count += 1

    def since(self) -> int:
        """How many batches ago it diverged, counting the first that shows it; 0: it has not. Waits for the device."""
        if self._since is None:
            return 0
        since, total = torch.stack([self._since.double(), self._sum.double()]).tolist()
        if since or self._count < LOOK:
            return int(since)
        mean, count = total / self._count, self._count
        if mean > _FORGOTTEN * self.best:
            return count
        self.best, self._sum, self._count = min(self.best, mean), torch.zeros_like(self._sum), 0
        return 0

"""Every loss of a training, watched without making the host wait for the device at each."""

import math
from typing import Any

import torch
from torch import Tensor

LOOK = 50  # batches between looks, each of which waits for the device
_EXPLODED = 1e3  # a loss; a network that predicts nothing scores 1
_HIGH = math.log(10.0)  # of a loss, over the best that was held
_LONG = 50  # batches in a row that were high
_MEMORY = 0.98  # of the average of log losses: some 50 batches. Of logs, so that one loss moves it little


class LossWatch:
    """Finds where a training has diverged: at a loss that is no number or of no reasonable size, or where as many as
    _LONG in a row are ten times what was held before. A network may also end in predicting nothing, at a loss of 1 for
    ever after; a spike that passes is none of that.

    since: how many batches ago it diverged, counting the first that showed it; 0: it has not.  high: how many losses
    in a row, up to the last one, were high. Both as of the last look.
    """

    def __init__(self) -> None:
        self.since = self.high = 0
        self._new: list[Tensor] = []  # since the last look; they stay where they are
        self._average: float | None = None
        self._best = math.inf

    def add(self, loss: Tensor) -> None:
        """Take a batch's loss into account: a scalar on any device."""
        self._new.append(loss.detach())

    def look(self) -> None:
        """Find out about the losses since the last look. Waits for the device."""
        if self._new:
            for loss in torch.stack(self._new).tolist():
                self._take(loss)
            self._new.clear()

    def _take(self, loss: float) -> None:
        if self.since or not loss < _EXPLODED:  # NaN is not less
            self.since += 1
            return
        value = math.log(max(loss, 1e-30))
        self._average = value if self._average is None else _MEMORY * self._average + (1 - _MEMORY) * value
        self._best = min(self._best, self._average)
        self.high = self.high + 1 if value > self._best + _HIGH else 0
        if self.high == _LONG:
            self.since = _LONG

    def state_dict(self) -> dict[str, Any]:
        """What a training that is resumed must know of the losses before, up to the last look."""
        return {"best": self._best, "average": self._average, "high": self.high}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises KeyError or TypeError for what state_dict does not give."""
        self._best, self.high = float(state["best"]), int(state["high"])
        self._average = None if state["average"] is None else float(state["average"])

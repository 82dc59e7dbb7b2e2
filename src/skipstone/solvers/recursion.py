"""A table run on anything that can be scaled and added: numbers, vectors of weights, many test problems at once."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from torch import Tensor

from skipstone.solvers.table import StepTable

X = TypeVar("X", float, Tensor)


def states(
    table: StepTable,
    x: X,
    predict: Callable[[int, X], X],
    landed: Callable[[int, X], X] = lambda i, x: x,
) -> Iterator[X]:
    """The state after each row, by the three lines at the top of table.py, without noise and without clipping.

    x:       where the first row starts.
    predict: x0 of row i at its state.
    landed:  what row i lands on, given what it would: here noise is added.
    """
    columns = zip(*(getattr(table, name).tolist() for name in ("a", "b", "c", "u", "v", "w")), strict=True)
    history: deque[X] = deque(maxlen=table.c.shape[1])
    for i, (a, b, weights, u, v, w) in enumerate(columns):
        x0 = (1 - w) * predict(i, x) + w * history[0] if w else predict(i, x)
        left = u * x + v * x0
        x = a * x + b * x0
        for c, h in zip(weights, history, strict=False):
            x = x + c * h
        history.appendleft(left)
        x = landed(i, x)
        yield x

"""Labels belong to the sample: which has which, wherever a model with classes is sampled."""

from collections.abc import Sequence

import torch
from torch import Tensor

from skipstone.engine import Model, classes_of


def labels_of(model: Model, n: int, chosen: int | Sequence[int] | None = None, first: int = 0) -> Tensor | None:
    """The labels of samples first … first+n−1: int64 [n], or None for a model without classes that is asked for none.

    chosen: one label for all, or labels that the samples have in turn. By default these are all classes, so sample k
            has the label k mod classes, whatever the seed.
    """
    if chosen is None:
        if not classes_of(model):
            return None
        chosen = range(classes_of(model))
    given = torch.tensor([chosen] if isinstance(chosen, int) else list(chosen), dtype=torch.int64)
    return given[torch.arange(first, first + n) % len(given)]

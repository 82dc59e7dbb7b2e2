"""Do two measures put things in the same order?"""

from collections.abc import Sequence

import torch
from torch import Tensor


def rank_correlation(x: Sequence[float] | Tensor, y: Sequence[float] | Tensor) -> float | None:
    """Spearman's rank correlation, −1 … 1; ties share their mean rank.

    None where either holds one value alone, which has no order; NaN where a value is NaN.
    """
    ranks = torch.stack([_ranks(x), _ranks(y)])
    if bool((ranks == ranks[:, :1]).all(dim=1).any()):
        return None
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: Sequence[float] | Tensor) -> Tensor:
    """float64 [N]: how many values are smaller, and half of the others that are equal."""
    values = torch.as_tensor(values, dtype=torch.float64)
    smaller, equal = values < values[:, None], values == values[:, None]
    return torch.where(values.isnan(), values, smaller.sum(dim=1) + (equal.sum(dim=1) - 1) / 2)

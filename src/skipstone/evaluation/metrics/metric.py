"""What a metric is, what it gave, and how that is spelt in columns: nothing outside this file knows their endings."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from skipstone.evaluation.metrics import jackknife

WITHIN = 2.0  # spreads of a difference that tell nothing apart
# The same where the spread rests on a few replicates, such as seeds: Student's t, 95 %, of 1, 2, … degrees of freedom
_WITHIN_OF_FEW = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)

_MEDIAN, _SPREAD, _LIMIT, _FLOOR = "_median", "_std", "_infinity", "_floor"


@dataclass(frozen=True)
class Metric:
    """What is measured.

    name:             its column in evaluation.csv
    lower_is_better:  which way is better
    floor:            the best value there is, where every set of samples has the same; it needs no column
    per_sample:       whether each sample has a value of its own, so that their median says something

    Raises ValueError for a name that could be taken for another metric's column.
    """

    name: str
    lower_is_better: bool = True
    floor: float | None = None
    per_sample: bool = False

    def __post_init__(self) -> None:
        if self.name.endswith((_MEDIAN, _SPREAD, _LIMIT, _FLOOR)):
            raise ValueError(
                f"a metric must not be named {self.name}: that ending is for what stands beside a metric; choose "
                "another name."
            )


SOLVER_RMSE = Metric("solver_rmse", floor=0.0, per_sample=True)
AGREEMENT = Metric("agreement", lower_is_better=False)  # the share of samples that the classifier names as their label


@dataclass(frozen=True)
class Measured:
    """What a metric gave for one cell's samples. None: it does not have that.

    metric:       whose number it is
    value:        the number
    floor:        the score of the same number of held-out real images
    spread:       its standard deviation from one set of samples to the next
    limit:        its extrapolation to infinitely many images
    limit_floor:  the same of held-out real images
    median:       over the samples
    replicates:   the value without each group of samples (jackknife.kept)
    """

    metric: Metric
    value: float | None
    floor: float | None = None
    spread: float | None = None
    limit: float | None = None
    limit_floor: float | None = None
    median: float | None = None
    replicates: tuple[float, ...] = ()

    @classmethod
    def of(cls, metric: Metric, value: float, replicates: Sequence[float], **others: float | None) -> "Measured":
        """A number with its replicates, and the spread that follows from them."""
        finite = all(map(math.isfinite, replicates))
        replicates = tuple(replicates) if finite else ()
        return cls(metric, value, others.pop("floor", metric.floor), jackknife.spread(replicates),
                   replicates=replicates, **others)  # fmt: skip

    @property
    def finite(self) -> bool:
        """Whether there is a value to show: a cell may lack a metric, and samples that diverged have none."""
        return self.value is not None and math.isfinite(self.value)

    def without_value(self) -> "Measured":
        """The same of samples that diverged: NaN, beside the floor."""
        limit = None if self.limit is None else math.nan
        return replace(self, value=math.nan, spread=math.nan, limit=limit, replicates=())

    def beyond(self, other: "Measured") -> bool:
        """Whether this number is better than the other by more than their paired difference is uncertain."""
        difference = self.value - other.value if self.metric.lower_is_better else other.value - self.value
        return difference < -_uncertainty(self, other)


def _uncertainty(a: Measured, b: Measured) -> float:
    """WITHIN spreads of the difference, more where few replicates tell the spread.

    By the replicates of the difference; where these are not kept, as if both cells had noise of their own.
    """
    if a.replicates and len(a.replicates) == len(b.replicates):
        differences = [x - y for x, y in zip(a.replicates, b.replicates, strict=True)]
        free = len(differences) - 1
        within = _WITHIN_OF_FEW[free - 1] if free <= len(_WITHIN_OF_FEW) else WITHIN
        return within * jackknife.spread(differences)
    return WITHIN * math.hypot(a.spread or 0.0, b.spread or 0.0)


def best(measured: Sequence[Measured | None]) -> Measured | None:
    """The best of one metric's numbers; None where none is finite."""
    found = [each for each in measured if each is not None and each.finite]
    return min(found, key=lambda each: each.value if each.metric.lower_is_better else -each.value, default=None)


def leading(measured: Sequence[Measured | None]) -> list[bool]:
    """Which of one metric's numbers are the best, or cannot be told from it. All False where fewer than two compare."""
    first = best(measured)
    found = [each is not None and each.finite for each in measured]
    if sum(found) < 2:
        return [False] * len(found)
    return [there and not first.beyond(each) for there, each in zip(found, measured, strict=True)]


def flatten(measured: Iterable[Measured]) -> dict[str, float | None]:
    """Columns of evaluation.csv: the values, each with its median and spread, then the limits, then the floors."""
    measured = list(measured)
    columns: dict[str, float | None] = {}
    for each in measured:
        columns[each.metric.name] = each.value
        if each.metric.per_sample:
            columns[each.metric.name + _MEDIAN] = each.median
        columns[each.metric.name + _SPREAD] = each.spread
    columns |= {each.metric.name + _LIMIT: each.limit for each in measured if each.limit is not None}
    columns |= {each.metric.name + _FLOOR: each.floor for each in measured if each.metric.floor is None}
    limits = {each.metric.name + _LIMIT + _FLOOR: each.limit_floor for each in measured if each.limit is not None}
    return columns | limits


def read(row: Mapping[str, Any]) -> dict[str, Measured]:
    """The metrics among the columns of a row, by name: `solver_rmse`, and whatever has a floor beside it."""
    found = {}
    for name in row:
        if name == SOLVER_RMSE.name:
            metric = SOLVER_RMSE
        elif name + _FLOOR in row and not name.endswith(_LIMIT):
            metric = AGREEMENT if name == AGREEMENT.name else Metric(name)
        else:
            continue
        found[name] = Measured(
            metric,
            row[name],
            floor=metric.floor if metric.floor is not None else row[name + _FLOOR],
            spread=row.get(name + _SPREAD),
            limit=row.get(name + _LIMIT),
            limit_floor=row.get(name + _LIMIT + _FLOOR),
            median=row.get(name + _MEDIAN),
        )
    return found


def facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that no metric has."""
    taken = flatten(read(row).values()).keys()
    return {name: value for name, value in row.items() if name not in taken}


def limit_name(name: str) -> str:
    """What a metric's limit for infinitely many images is called."""
    return name + _LIMIT


def median_name(name: str) -> str:
    """What a metric's median over the samples is called."""
    return name + _MEDIAN

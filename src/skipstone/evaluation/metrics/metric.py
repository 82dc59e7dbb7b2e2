"""What a metric is, and how its numbers stand in a row of evaluation.csv. Nothing else knows how columns are spelt.

<name>  <name>_std  <name>_infinity    value, spread, and limit for infinitely many samples
<name>_floor                           what as many held-out real images score
<name>_ceiling                         the same, where higher is better
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

_SPREAD, _LIMIT = "_std", "_infinity"
_REAL = {"_floor": True, "_ceiling": False}  # what real images score, and whether lower is better then


@dataclass(frozen=True)
class Measured:
    """One metric of one set of samples. What there is not is None.

    value:       of the samples
    spread:      a standard deviation of the value
    limit:       the value for infinitely many samples
    real:        of as many held-out real images
    real_limit:  the limit of these
    """

    value: float
    spread: float | None = None
    limit: float | None = None
    real: float | None = None
    real_limit: float | None = None


@dataclass(frozen=True)
class Metric:
    """A number that samples are measured by.

    name:             its column
    compute:          uint8 [n, C, H, W] → float; None for a metric that is computed elsewhere
    lower_is_better:  its direction
    perfect:          the floor, where it needs no real images: 0 for solver_rmse
    """

    name: str
    compute: Callable[[Tensor], float] | None = field(default=None, compare=False)
    lower_is_better: bool = True
    perfect: float | None = field(default=None, compare=False)

    def columns(self, measured: Measured) -> dict[str, float]:
        """The columns of one row: the value, then what else there is."""
        real = next(suffix for suffix, lower in _REAL.items() if lower == self.lower_is_better)
        more = {_SPREAD: measured.spread, _LIMIT: measured.limit}
        more |= {real: measured.real, _LIMIT + real: measured.real_limit}
        return {self.name: measured.value} | {self.name + end: v for end, v in more.items() if v is not None}

    def value(self, row: Mapping[str, Any]) -> float | None:
        """Of a row; None where it has none."""
        return row.get(self.name)

    def spread(self, row: Mapping[str, Any]) -> float | None:
        """A standard deviation of the value, where it is known."""
        return row.get(self.name + _SPREAD)

    @property
    def limit(self) -> "Metric":
        """The value for infinitely many samples, as a metric."""
        return replace(self, name=self.name + _LIMIT)

    def floor(self, row: Mapping[str, Any]) -> float | None:
        """What as many held-out real images score: no model can honestly do better."""
        if self.perfect is not None:
            return self.perfect
        return next((row[self.name + end] for end in _REAL if row.get(self.name + end) is not None), None)

    def best(self, rows: Sequence[Mapping[str, Any]]) -> float | None:
        """The best finite value of the rows; None where there is none."""
        values = [value for value in map(self.value, rows) if value is not None and math.isfinite(value)]
        return (min if self.lower_is_better else max)(values, default=None)


SOLVER_RMSE = Metric("solver_rmse", perfect=0.0)


def flat(measured: Iterable[tuple[Metric, Measured]]) -> dict[str, float]:
    """The columns of several metrics: values and spreads first, then limits, then what real images score."""
    columns = {name: number for metric, each in measured for name, number in metric.columns(each).items()}
    return dict(sorted(columns.items(), key=lambda column: _rank(column[0])))


def _rank(column: str) -> int:
    real = column.endswith(tuple(_REAL))
    return 2 * real + (_LIMIT in column)


def of_real(columns: Mapping[str, float]) -> dict[str, float]:
    """Those columns that real images score."""
    return {name: number for name, number in columns.items() if name.endswith(tuple(_REAL))}


def not_a_number(columns: Mapping[str, float]) -> dict[str, float]:
    """The columns of samples that are not finite: real images score what they did, all else is NaN."""
    return dict.fromkeys(columns, math.nan) | of_real(columns)


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """The metrics of which at least one row has a finite value, in the order of the rows' columns."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = []
    for name in names:
        ends = [end for end in _REAL if name + end in names]
        if name == SOLVER_RMSE.name:
            metric = SOLVER_RMSE
        elif ends and not name.endswith(_LIMIT):  # a limit is no metric of its own
            metric = Metric(name, lower_is_better=_REAL[ends[0]])
        else:
            continue
        if metric.best(rows) is not None:
            found.append(metric)
    return found


def limits_of(rows: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """The limits that at least one row has."""
    return [metric.limit for metric in metrics_of(rows) if metric.limit.best(rows) is not None]


def beside(names: Iterable[str]) -> set[str]:
    """Those of these columns that stand beside a metric's own: its spread, and what real images score."""
    return {name for name in names if name.endswith((_SPREAD, *_REAL))}

"""Cells that differ in the seed alone, as one: the mean over seeds, and how far seeds lie apart."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from skipstone.evaluation.evaluate import CLOCK, Result
from skipstone.evaluation.metrics import Measured

SEEDS = "seeds"  # of an averaged cell: how many
_OWN = ("seed", "model", "cell", *CLOCK)  # what another seed changes: a network of its own, too


def average(results: Sequence[Result]) -> list[Result]:
    """One result per setting, the mean over its seeds, in order; none where no setting has several seeds.

    Its facts lack the seed and say how many seeds there are. A number's spread is the standard deviation between seeds.
    Cells with the same seeds are compared seed by seed. If one seed lacks a number, the mean
    has none; if the samples of one seed diverged, the mean is NaN.
    """
    groups: dict[str, dict[str, Result]] = {}
    for result in results:
        same = repr({name: value for name, value in result.facts.items() if name not in _OWN})
        groups.setdefault(same, {}).setdefault(str(result.facts.get("seed")), result)
    if all(len(of_seeds) == 1 for of_seeds in groups.values()):
        return []
    every = {seed for of_seeds in groups.values() for seed in of_seeds}
    return [_mean([of_seeds[seed] for seed in sorted(of_seeds)], len(of_seeds) == len(every))
            for of_seeds in groups.values()]  # fmt: skip


def _mean(results: Sequence[Result], complete: bool) -> Result:
    """complete: whether these are all seeds; only then is their order that of another cell's."""
    first = results[0]
    models = {result.facts.get("model") for result in results}
    facts = {name: value for name, value in first.facts.items() if name != "seed"}
    name = first.name.removeprefix(f"{first.facts.get('model')}-") if len(models) > 1 else first.name
    facts |= {"model": f"{len(models)} models" if len(models) > 1 else first.facts.get("model"), "cell": name}
    facts |= {SEEDS: len(results), **dict.fromkeys(CLOCK)}
    names = [name for name in first.measured if all(name in result.measured for result in results)]
    measured = {name: _measured([result.measured[name] for result in results], complete) for name in names}
    return replace(first, own=False, facts=facts, measured=measured, film=None, batch=None)


def _measured(of_seeds: Sequence[Measured], complete: bool) -> Measured:
    def mean(what: str) -> float | None:
        found = [getattr(each, what) for each in of_seeds]
        return None if None in found else statistics.fmean(found)

    values = [each.value for each in of_seeds]
    several = len(values) > 1 and None not in values
    without = [statistics.fmean(values[:i] + values[i + 1 :]) for i in range(len(values))] if several else []
    return replace(
        of_seeds[0],
        value=mean("value"),
        floor=mean("floor"),
        spread=_deviation(values) if several else None,
        limit=mean("limit"),
        limit_floor=mean("limit_floor"),
        median=mean("median"),
        replicates=tuple(without) if complete else (),
    )


def _deviation(values: Sequence[float]) -> float:
    """Their standard deviation, NaN where one of them is no number."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan

"""Cells over seeds: the mean, the spread between seeds, and which of two cells is better."""

import math
import statistics
from dataclasses import replace

import pytest
from cells import make_result

from skipstone.evaluation.metrics import Measured, Metric
from skipstone.evaluation.metrics.metric import leading
from skipstone.evaluation.seeds import average

SEEDS = ("1", "2", "3")


def of_seed(seed, tau, value, **facts):
    result = make_result(tau=tau, film=False, n=4, names=("fd_random",))
    measured = {"fd_random": Measured(Metric("fd_random"), value, floor=0.5, spread=9.0, limit=value - 1)}
    facts = {"seed": seed, "model": f"model{seed}", **result.facts, **facts, "cell": f"model{seed}-{result.name}"}
    return replace(result, own=True, facts=facts, measured=measured)


def test_cells_that_differ_in_the_seed_alone_are_one():
    values = {10: (1.0, 2.0, 6.0), 20: (3.0, 3.5, 8.0)}
    results = [of_seed(seed, tau, values[tau][k], clip_x0=True) for k, seed in enumerate(SEEDS) for tau in values]
    first, second = average(results)
    for result, tau in ((first, 10), (second, 20)):
        facts, number = result.facts, result.measured["fd_random"]
        assert (facts["tau"], facts["seeds"], facts["model"], facts["clip_x0"]) == (tau, 3, "3 models", True)
        assert "seed" not in facts
        assert facts["seconds"] is None
        assert result.name == f"ddim-uniform-tau{tau}-eta0.0"
        assert number.value == pytest.approx(statistics.fmean(values[tau]))
        assert number.spread == pytest.approx(statistics.stdev(values[tau]))
        assert number.limit == pytest.approx(number.value - 1)
        assert number.floor == 0.5
    assert not first.own


def test_what_else_differs_is_another_cell_and_one_seed_is_no_average():
    assert average([of_seed("1", tau, 1.0) for tau in (10, 20)]) == []
    results = [of_seed(seed, 10, 1.0, images=n) for seed in SEEDS for n in (4, 8)]
    assert [(result.facts["images"], result.facts["seeds"]) for result in average(results)] == [(4, 3), (8, 3)]
    twice = [of_seed("1", 10, 1.0), of_seed("1", 10, 5.0), of_seed("2", 10, 2.0)]
    assert average(twice)[0].measured["fd_random"].value == 1.5


@pytest.mark.parametrize(("differences", "apart"), [
    ((1.0, 1.1, 0.9), True),     # mean 1, standard error 0.058: t = 17 > 4.30
    ((1.0, 3.0, -0.5), False),   # mean 1.17, standard error 1.01
    ((1.0, 1.8, 0.2), False),    # mean 1, standard error 0.46: t = 2.2, beyond 2 and within 4.30
])  # fmt: skip
def test_two_cells_are_compared_seed_by_seed_by_students_t(differences, apart):
    base = (10.0, 30.0, 80.0)  # seeds lie far apart, which says nothing of the difference
    results = [of_seed(seed, 10, base[k]) for k, seed in enumerate(SEEDS)]
    results += [of_seed(seed, 20, base[k] + differences[k]) for k, seed in enumerate(SEEDS)]
    a, b = (result.measured["fd_random"] for result in average(results))
    error = statistics.stdev(differences) / math.sqrt(3)
    assert a.beyond(b) == (statistics.fmean(differences) > 4.303 * error) == apart
    assert leading([a, b]) == [True, not apart]


def test_a_cell_that_lacks_a_seed_is_not_compared_seed_by_seed():
    results = [of_seed(seed, 10, 10.0 * int(seed)) for seed in SEEDS]
    results += [of_seed(seed, 20, 10.0 * int(seed) + 1) for seed in SEEDS[1:]]
    a, b = (result.measured["fd_random"] for result in average(results))
    assert not b.replicates
    assert not a.beyond(b)


def test_a_seed_that_diverged_or_has_no_number_is_not_passed_over():
    numbers = [of_seed("1", 10, 1.0), of_seed("2", 10, math.nan)]
    assert math.isnan(average(numbers)[0].measured["fd_random"].value)
    assert average([numbers[0], of_seed("2", 20, 1.0), replace(numbers[1], measured={})])[0].measured == {}
    none = replace(
        numbers[1], measured={"fd_random": replace(numbers[1].measured["fd_random"], value=None, limit=None)}
    )
    number = average([numbers[0], none])[0].measured["fd_random"]
    assert (number.value, number.spread, number.limit) == (None, None, None)

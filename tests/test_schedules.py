import numpy as np
import pytest

from skipstone import schedules


def seed_steps(kind, T, tau):
    """The seed document's list, with numpy as it uses it; repeats dropped."""
    if kind == "uniform":
        steps = [*range(0, T, tau), T - 1]
    else:
        steps = [int(s) for s in np.linspace(0, np.sqrt(T * 0.8), tau) ** 2] + [T - 1]
    return tuple(sorted(set(steps)))


@pytest.mark.parametrize("T", [10, 100, 1000])
def test_visited_steps_are_the_seeds_for_every_tau(T):
    for tau in range(1, T):
        assert schedules.Uniform(tau)(T) == seed_steps("uniform", T, tau), tau
    for tau in range(1, T + 1):
        assert schedules.Exp(tau)(T) == seed_steps("exp", T, tau), tau


@pytest.mark.parametrize("T", [2, 10, 1000])
def test_visited_steps_are_ascending_unique_and_end_at_the_last(T):
    for schedule, highest in ((schedules.Uniform, T - 1), (schedules.Exp, T)):
        for tau in range(1, highest + 1):
            steps = schedule(tau)(T)
            assert list(steps) == sorted(set(steps))
            assert steps[0] == 0
            assert steps[-1] == T - 1


@pytest.mark.parametrize("tau", [0, -1, 1001, 2.5, "ten", True, None])
def test_impossible_taus_are_refused_with_what_is_allowed(tau):
    with pytest.raises(ValueError, match=r"tau=.*uniform.*1 \.\.\. 999"):
        schedules.Uniform(tau)(1000)
    with pytest.raises(ValueError, match=r"tau=.*exp.*1 \.\.\. 1000"):
        schedules.Exp(tau)(1000)


def test_a_stride_of_all_steps_is_refused_where_a_count_is_not():
    assert len(schedules.Exp(1000)(1000)) <= 1000
    with pytest.raises(ValueError, match="stride"):
        schedules.Uniform(1000)(1000)

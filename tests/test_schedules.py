import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from skipstone import ForwardProcess, noise, schedules


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


@pytest.mark.parametrize("T", [10, 1000])
def test_quad_is_the_official_codes(T):
    for tau in range(1, T + 1):
        expected = sorted({int(s) for s in np.linspace(0, np.sqrt(T * 0.8), tau) ** 2})
        assert schedules.Quad(tau)(T) == tuple(expected), tau


@pytest.mark.parametrize("tau", [1, 2, 3, 7, 10, 20, 50, 333, 1000])
@pytest.mark.parametrize(
    ("spacing", "schedule"),
    [("leading", schedules.Leading), ("linspace", schedules.Linspace), ("trailing", schedules.Trailing)],
)
def test_spacings_of_the_literature_are_diffusers(spacing, schedule, tau):
    if (spacing, tau) == ("linspace", 1):
        pytest.skip("one step of linspace is step 0 in diffusers, from where nothing can be sampled; ours is T−1")
    scheduler = DDIMScheduler(1000, timestep_spacing=spacing)
    scheduler.set_timesteps(tau)
    assert schedule(tau)(1000) == tuple(reversed(scheduler.timesteps.tolist()))


def test_logsnr_is_even_in_log_snr():
    process = ForwardProcess(noise.linear())
    steps = schedules.LogSNR(12, process.betas)(1000)
    assert (steps[0], steps[-1], len(steps)) == (0, 999, 12)
    log_snr = torch.log(process.alpha_bar(torch.tensor(steps)) / process.one_minus_alpha_bar(torch.tensor(steps)))
    gaps = -log_snr.diff()
    neighbours = torch.log(process.alpha_bar(1) / process.one_minus_alpha_bar(1)) - log_snr[0]
    assert (gaps - gaps.mean()).abs().max() <= -neighbours  # no unevenness but that of the process's own steps


def test_custom_visits_what_is_listed():
    assert schedules.Custom([0, 3, 9])(10) == (0, 3, 9)
    assert schedules.Custom([0, 2.5])(10) == (0, 2.5)  # a real time
    for steps in (torch.tensor([0, 3, 9]), np.array([0, 3, 9]), [np.int32(0), 3, np.int64(9)], range(0, 10, 3)):
        assert schedules.Custom(steps)(10) == tuple(map(int, steps))
    assert schedules.Custom(torch.tensor([0, 2.5]))(10) == (0.0, 2.5)
    for wrong in (torch.tensor(3), np.array([True]), torch.tensor([[0, 3]]), {0: 1}):
        with pytest.raises(ValueError, match=r"schedule\.timesteps="):
            schedules.Custom(wrong)(10)
    with pytest.raises(ValueError, match=r"schedule\.timesteps=\[0, 'x'\]"):
        schedules.Custom([0, "x"])(10)


@pytest.mark.parametrize(
    "schedule", [schedules.LogSNR, schedules.Karras, lambda t, p: schedules.GITS(t, schedules.Costs.even(p))]
)
def test_a_schedule_with_a_process_is_of_its_steps_alone(schedule, process):
    assert len(schedule(5, process)(1000)) == 5
    for wrong in (500, 1001):
        with pytest.raises(ValueError, match=rf"process of 1000 steps,.* {wrong}"):
            schedule(5, process)(wrong)


@pytest.mark.parametrize("tau", [0, -1, 1001, 2.5, "ten", True, None])
def test_impossible_taus_are_refused_with_what_is_allowed(tau):
    with pytest.raises(ValueError, match=r"tau=.*uniform.*1 \.\.\. 999"):
        schedules.Uniform(tau)(1000)
    with pytest.raises(ValueError, match=r"tau=.*exp.*1 \.\.\. 1000"):
        schedules.Exp(tau)(1000)
    for counted in (schedules.Quad, schedules.Leading, schedules.Linspace, schedules.Trailing):
        with pytest.raises(ValueError, match=rf"tau=.*{counted.name}.*1 \.\.\. 1000"):
            counted(tau)(1000)


def test_a_stride_of_all_steps_is_refused_where_a_count_is_not():
    assert len(schedules.Exp(1000)(1000)) <= 1000
    with pytest.raises(ValueError, match="stride"):
        schedules.Uniform(1000)(1000)

"""Values that are not finite: which samples, at which t, and what is refused at the door."""

import math
from dataclasses import replace

import pytest
import torch

from skipstone import ForwardProcess, engine, noise, schedules, solvers

PROCESS = ForwardProcess(noise.linear())
TABLE = solvers.DDIM(eta=0.0).table(PROCESS, schedules.Linspace(tau=10)(1000))
NOISY = solvers.DDIM(eta=0.0, to_data=False).table(PROCESS, schedules.Linspace(tau=10)(1000))
SHAPE = (1, 4, 4)


def breaks_at(t_bad, samples=None):
    """An eps-network that gives NaN at a step, for all samples or for those whose first pixel is among `samples`."""

    def model(x, t):
        bad = (t == t_bad).view(-1, 1, 1, 1).expand_as(x)
        if samples is not None:
            known = torch.stack([(x[:, 0, 0, 0] - value).abs() < 1e-6 for value in samples]).any(dim=0)
            bad = bad & known.view(-1, 1, 1, 1)
        return torch.where(bad, math.nan, 0.1 * x)

    return model


@pytest.mark.parametrize("t", [999, 444, 0])
def test_the_first_t_is_that_at_which_the_network_broke(t):
    x = engine.sample(breaks_at(t), TABLE, 5, SHAPE, seed=3)
    lost = engine.not_finite(breaks_at(t), TABLE, x, seed=3)
    assert (lost.samples, lost.total, lost.t, lost.all) == ([0, 1, 2, 3, 4], 5, t, True)
    assert str(lost) == (
        f"all 5 samples are not finite (NaN or infinite); the first value that is not finite appeared at t={t}"
    )


def test_which_samples_are_lost_is_said():
    start = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))
    model = breaks_at(999, samples=[float(start[k, 0, 0, 0]) for k in (1, 4)])
    x = engine.sample(model, TABLE, start=start)
    lost = engine.not_finite(model, TABLE, x, start=start)
    assert (lost.samples, lost.t, lost.all) == ([1, 4], 999, False)
    assert str(lost).startswith("2 of 6 samples (1, 4) are not finite")


def test_finite_samples_have_lost_nothing():
    x = engine.sample(lambda x, t: 0.1 * x, TABLE, 3, SHAPE)
    assert engine.not_finite(lambda x, t: 1 / 0, TABLE, x) is None  # and the network is not asked


def test_infinity_is_not_finite_either():
    x = engine.sample(lambda x, t: torch.full_like(x, math.inf), TABLE, 2, SHAPE)
    assert engine.not_finite(lambda x, t: torch.full_like(x, math.inf), TABLE, x).t == 999


def test_betas_that_leave_no_image_in_float32_are_refused_at_once():
    for beta in (0.15, 0.99):
        with pytest.raises(ValueError, match="end in alpha_bar = 0 in float32"):
            ForwardProcess(torch.full((1000,), beta, dtype=torch.float64))


def test_a_table_whose_weights_are_not_finite_is_refused():
    a = TABLE.a.clone()
    a[3] = math.inf
    with pytest.raises(ValueError, match=r"the solver's weight a is not finite in the row from t=666 to 555"):
        replace(TABLE, a=a)


def test_start_noise_that_is_not_finite_is_refused():
    start = torch.zeros(2, *SHAPE)
    start[1, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="start has values that are not finite"):
        engine.sample(lambda x, t: x, TABLE, start=start)


def test_an_inversion_names_the_t_at_which_the_network_broke():
    with pytest.raises(ValueError, match=r"the network gives values that are not finite at t=444, so the row to 333"):
        engine.invert(breaks_at(444), NOISY, torch.zeros(1, *SHAPE))
    with pytest.raises(ValueError, match="x has values that are not finite"):
        engine.invert(lambda x, t: x, NOISY, torch.full((1, *SHAPE), math.nan))


def test_the_way_between_ends_that_have_none_is_refused():
    a = torch.randn(*SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(engine.slerp(a, a, 3), a.expand(3, *SHAPE))
    for b, sentence in ((-a, "opposite"), (torch.zeros_like(a), "not zero"), (a * math.nan, "finite")):
        with pytest.raises(ValueError, match=sentence):
            engine.slerp(a, b, 3)

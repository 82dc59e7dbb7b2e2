"""DDIM's tables against the paper's formulas, the seed document's update and diffusers' scheduler."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from skipstone import ForwardProcess, engine, noise, schedules, solvers

BETAS = np.linspace(1e-4, 0.02, 1000)
LOG_ALPHA_BAR = [math.fsum(np.log1p(-BETAS[: t + 1])) for t in range(1000)] + [0.0]  # the last is index −1: clean data


@pytest.mark.parametrize(
    "schedule", [schedules.Uniform(1), schedules.Uniform(20), schedules.Exp(7), schedules.Exp(100)]
)
@pytest.mark.parametrize("eta", [0.0, 0.2, 0.5, 1.0])
def test_rows_are_equations_12_and_16(process, schedule, eta):
    table = solvers.DDIM(eta=eta).table(process, schedule(1000))
    assert table.nfe == len(schedule(1000))
    rng = np.random.default_rng(0)
    for i, (t, p) in enumerate(zip(table.t.tolist(), table.p.tolist(), strict=True)):
        x, eps, z = rng.standard_normal(3)
        at, ap = math.exp(LOG_ALPHA_BAR[t]), math.exp(LOG_ALPHA_BAR[p])
        nt, np_ = -math.expm1(LOG_ALPHA_BAR[t]), -math.expm1(LOG_ALPHA_BAR[p])  # 1 − ᾱ with all its digits
        sigma = eta * math.sqrt(np_ / nt) * math.sqrt(-math.expm1(LOG_ALPHA_BAR[t] - LOG_ALPHA_BAR[p]))  # Eq. 16
        x0 = (x - math.sqrt(nt) * eps) / math.sqrt(at)  # Eq. 9
        expected = math.sqrt(ap) * x0 + math.sqrt(max(np_ - sigma**2, 0)) * eps + sigma * z  # Eq. 12
        x0_row = (x - table.sqrt_one_minus_alpha_bar[i].item() * eps) / table.sqrt_alpha_bar[i].item()
        row = table.a[i].item() * x + table.b[i].item() * x0_row + table.s[i].item() * z
        scale = abs(math.sqrt(ap) * x0) + math.sqrt(np_) + sigma  # of the terms that are summed
        assert row == pytest.approx(expected, rel=0, abs=1e-12 * scale)


@pytest.mark.parametrize("schedule", [schedules.Uniform(1), schedules.Exp(30), schedules.Linspace(10)])
@pytest.mark.parametrize("sigma", ["adjacent", "large"])
def test_rows_of_other_sigmas(process, schedule, sigma):
    """Eq. 12 with σ from t and t−1, and σ̂ = √(1 − ᾱ_t/ᾱ_p) beside the direction of eta = 1, in float64."""
    eta = 0.2 if sigma == "adjacent" else 1.0
    table = solvers.DDIM(eta=eta, sigma=sigma).table(process, schedule(1000))
    for i, (t, p) in enumerate(zip(table.t.tolist(), table.p.tolist(), strict=True)):
        nt, np_ = -math.expm1(LOG_ALPHA_BAR[t]), -math.expm1(LOG_ALPHA_BAR[p])
        last = t - 1 if sigma == "adjacent" else p
        n_last, jump = -math.expm1(LOG_ALPHA_BAR[last]), -math.expm1(LOG_ALPHA_BAR[t] - LOG_ALPHA_BAR[last])
        s = eta * math.sqrt(n_last / nt * jump)
        direction = math.sqrt(max(np_ - s**2, 0) / nt)
        if sigma == "large":
            s = math.sqrt(jump) if p >= 0 else 0.0
        assert table.s[i].item() == pytest.approx(s, rel=1e-12)
        assert table.a[i].item() == pytest.approx(direction, rel=1e-12, abs=1e-12)
        root_t, root_p = math.exp(LOG_ALPHA_BAR[t] / 2), math.exp(LOG_ALPHA_BAR[p] / 2)
        assert table.b[i].item() == pytest.approx(root_p - direction * root_t, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_row_carries_the_marginal_on(process, eta):
    """Lemma 1 of the paper: with the true x0, row (t → p) takes q(x_t | x0) to q(x_p | x0)."""
    table = solvers.DDIM(eta=eta).table(process, schedules.Exp(30)(1000))
    signal_t, signal_p = process.alpha_bar(table.t).sqrt(), process.alpha_bar(table.p).sqrt()
    noise_t, noise_p = process.one_minus_alpha_bar(table.t), process.one_minus_alpha_bar(table.p)
    torch.testing.assert_close(table.a * signal_t + table.b, signal_p, rtol=1e-12, atol=0)
    torch.testing.assert_close(table.a**2 * noise_t + table.s**2, noise_p, rtol=1e-12, atol=1e-16)


def test_the_last_row_lands_on_the_predicted_x0(process):
    table = solvers.DDIM(eta=1.0).table(process, schedules.Uniform(100)(1000))
    assert (table.p[-1], table.a[-1], table.b[-1], table.s[-1]) == (-1, 0, 1, 0)
    assert (solvers.DDIM(to_data=False).table(process, schedules.Uniform(100)(1000)).p >= 0).all()


def test_eta_1_over_every_step_is_the_ddpm_posterior(process):
    """q(x_{t−1} | x_t, x_0) of Ho et al. 2020, Eq. 7."""
    table = solvers.DDIM(eta=1.0).table(process, range(1000))
    for i in (0, 10, 500, 998):
        t = int(table.t[i])
        ap, beta = process.alpha_bar(t - 1).item(), process.betas[t].item()
        nt, np_ = process.one_minus_alpha_bar(t).item(), process.one_minus_alpha_bar(t - 1).item()
        assert table.b[i].item() == pytest.approx(math.sqrt(ap) * beta / nt, rel=1e-12, abs=1e-15)
        assert table.a[i].item() == pytest.approx(math.sqrt(1 - beta) * np_ / nt, rel=1e-12)
        assert table.s[i].item() ** 2 == pytest.approx(np_ / nt * beta, rel=1e-12)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_trajectory_is_that_of_diffusers(process, net, eta, clip):
    """Step by step on the same visited steps, with the same network and the same noise."""
    scheduler = DDIMScheduler(
        1000, beta_start=1e-4, beta_end=0.02, clip_sample=clip, set_alpha_to_one=True, timestep_spacing="leading"
    )
    scheduler.set_timesteps(20)
    steps = scheduler.timesteps.tolist()
    table = solvers.DDIM(eta=eta, clip_x0=clip).table(process, steps[::-1])
    start, step_noise = torch.randn(3, 1, 16, 16), torch.randn(20, 3, 1, 16, 16)
    x = start
    ours = engine.trajectory(net, table, start=start, step_noise=step_noise)
    for i, (t, step) in enumerate(zip(steps, ours, strict=True)):
        with torch.no_grad():
            eps = net(x, torch.full((3,), t))
        out = scheduler.step(eps, t, x, eta=eta, use_clipped_model_output=True, variance_noise=step_noise[i])
        x = out.prev_sample
        assert step.t == t
        assert (step.x - x).norm() / x.norm() < 5e-6
        assert (step.x0 - out.pred_original_sample).norm() / out.pred_original_sample.norm() < 5e-6


@pytest.fixture
def cheap_net():
    """A network that costs nothing, for chains of a thousand steps: one convolution, weighed by t."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(1, 1, 3, padding=1)
    return lambda x, t: torch.tanh(conv(x)) * (1 + t.view(-1, 1, 1, 1) / 1000)


def seed_document(net, kind, tau, eta, start, step_noise):
    """The seed document's update, float32 as there: σ from t and t−1, stop at index 0; yields (t, x)."""
    alpha_bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    previous = torch.cat([torch.ones(1), alpha_bars[:-1]])
    sigmas = torch.sqrt((1 - previous) / (1 - alpha_bars)) * torch.sqrt(1 - alpha_bars / previous)
    steps = {"uniform": schedules.Uniform, "exp": schedules.Exp}[kind](tau)(1000)
    x = start
    for i, (p, t) in enumerate(zip(steps[-2::-1], steps[:0:-1], strict=True)):
        with torch.no_grad():
            eps = net(x, torch.full((len(x),), t))
        sigma = sigmas[t] * eta
        x = (
            torch.sqrt(alpha_bars[p]) * (x - torch.sqrt(1 - alpha_bars[t]) * eps) / torch.sqrt(alpha_bars[t])
            + torch.sqrt(1 - alpha_bars[p] - sigma**2) * eps
            + sigma * step_noise[i]
        )
        yield t, x


@pytest.mark.parametrize(
    ("kind", "tau", "eta"),
    [
        ("uniform", 50, 0.0),
        ("uniform", 1, 1.0),
        ("uniform", 2, 1.0),
        ("uniform", 10, 0.5),
        ("exp", 20, 0.0),
        ("exp", 50, 0.5),
    ],
)
def test_adjacent_sigma_reproduces_the_seed_document(process, cheap_net, kind, tau, eta):
    schedule = {"uniform": schedules.Uniform, "exp": schedules.Exp}[kind](tau)
    table = solvers.DDIM(eta=eta, sigma="adjacent", to_data=False).table(process, schedule(1000))
    start, step_noise = torch.randn(2, 1, 16, 16), torch.randn(table.nfe, 2, 1, 16, 16)
    ours = engine.trajectory(cheap_net, table, start=start, step_noise=step_noise)
    for (t, x), step in zip(seed_document(cheap_net, kind, tau, eta, start, step_noise), ours, strict=True):
        assert t == step.t
        assert (step.x - x).norm() / x.norm() < 5e-6


@pytest.mark.parametrize(
    ("kind", "tau", "eta"), [("uniform", 3, 1.0), ("uniform", 20, 0.5), ("exp", 5, 1.0), ("exp", 10, 1.0)]
)
def test_where_the_seed_document_gives_nan_the_step_is_named(process, cheap_net, kind, tau, eta):
    step_noise = torch.randn(1000, 1, 1, 16, 16)
    *_, (_, last) = seed_document(cheap_net, kind, tau, eta, torch.randn(1, 1, 16, 16), step_noise)
    assert last.isnan().any()
    schedule = {"uniform": schedules.Uniform, "exp": schedules.Exp}[kind](tau)
    with pytest.raises(ValueError, match=r"step from t=\d+ to 0 .*use solver.sigma=paper"):
        solvers.DDIM(eta=eta, sigma="adjacent", to_data=False).table(process, schedule(1000))


def test_paper_sigma_is_finite_everywhere():
    for process in (ForwardProcess(noise.linear()), ForwardProcess(noise.cosine())):
        for tau in (1, 3, 20, 500, 999):
            for eta in (0.0, 0.5, 1.0):
                table = solvers.DDIM(eta=eta).table(process, schedules.Uniform(tau)(1000))
                for column in (table.a, table.b, table.s):
                    assert column.isfinite().all()
                assert (table.p < table.t).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(eta=-0.1), "eta=-0.1"),
        (dict(eta=1.5), "eta=1.5"),
        (dict(eta="high"), "eta='high'"),
        (dict(eta=float("nan")), "eta=nan"),
        (dict(sigma="papier"), "paper, adjacent or large"),
        (dict(sigma="large"), "set eta=1.0"),
    ],
)
def test_impossible_settings_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        solvers.DDIM(**arguments)


@pytest.mark.parametrize("steps", [[], [0, 0, 5], [5, 3], [0, 1000], [-1, 5]])
def test_impossible_visited_steps_are_refused(process, steps):
    with pytest.raises(ValueError, match=r"ascending, unique and within 0 \.\.\. 999"):
        solvers.DDIM().table(process, steps)


def test_one_step_that_goes_nowhere_is_refused(process):
    assert solvers.DDIM().table(process, [999]).nfe == 1
    with pytest.raises(ValueError, match="nothing to do"):
        solvers.DDIM(to_data=False).table(process, [999])


def generated_variance(process, steps, eta, variance):
    """The variance of what DDIM generates for data N(0, variance), whose predicted x0 is linear in x."""
    table = solvers.DDIM(eta=eta).table(process, steps)
    alpha_bar = process.alpha_bar(table.t)
    predicted = alpha_bar.sqrt() * variance / (alpha_bar * variance + process.one_minus_alpha_bar(table.t))
    reached = 1.0
    for gain, s in zip((table.a + table.b * predicted).tolist(), table.s.tolist(), strict=True):
        reached = gain**2 * reached + s**2
    return reached


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("variance", [0.05, 0.5, 3.0])
def test_generated_variance_approaches_the_datas(eta, variance):
    """As NFE grows, down to a floor of a few times 1/T that the T steps themselves leave, and that shrinks with T."""
    floors = []
    for T in (1000, 4000):
        process = ForwardProcess(noise.linear(T, 0.1 / T, 20 / T))
        errors = []
        for stride in (T // 10, T // 40, T // 160, 1):
            steps = schedules.Uniform(stride)(T)
            errors.append(abs(generated_variance(process, steps, eta, variance) / variance - 1))
        assert errors[-1] < errors[0] / 10
        assert errors[2] < errors[0]
        assert errors[-1] < 40 / T
        floors.append(errors[-1])
    assert floors[1] < floors[0]

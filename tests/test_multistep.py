"""Every deterministic solver: the papers' formulas, diffusers, order of convergence, the way back."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from skipstone import ForwardProcess, engine, noise, schedules, solvers
from skipstone.solvers import DDIM, AdamsBashforth, DPMSolverPP, ProbabilityFlow

DETERMINISTIC = [
    DDIM(),
    ProbabilityFlow(),
    DPMSolverPP(order=2),
    DPMSolverPP(order=3),
    DPMSolverPP(order=3, variant="published"),
    AdamsBashforth(order=2),
    AdamsBashforth(order=3),
    AdamsBashforth(order=3, variant="published"),
]
LOG_ALPHA_BAR = [math.fsum(np.log1p(-np.linspace(1e-4, 0.02, 1000)[: t + 1])) for t in range(1000)]
STEPS = (0, 7, 40, 41, 300, 650, 900, 999)


def run(table, x, network):
    """The table by hand, in float64: what the engine does, for a scalar and a Python function eps(x, t)."""
    history, states = [], []
    for i in range(table.nfe):
        eps = network(x, int(table.t[i]))
        x0 = (x - table.sqrt_one_minus_alpha_bar[i].item() * eps) / table.sqrt_alpha_bar[i].item()
        left = table.u[i].item() * x + table.v[i].item() * x0
        past = sum(w * h for w, h in zip(table.c[i].tolist(), history, strict=False))
        x = table.a[i].item() * x + table.b[i].item() * x0 + past
        history = [left, *history]
        states.append(x)
    return states


def wavy(x, t):
    return math.sin(3 * x) + 0.3 * x + t / 700


def alpha(t):
    return 1.0 if t < 0 else math.exp(LOG_ALPHA_BAR[t] / 2)


def sigma(t):
    return 0.0 if t < 0 else math.sqrt(-math.expm1(LOG_ALPHA_BAR[t]))


def test_probability_flow_is_equation_15(process):
    x = 1.3
    ours = run(ProbabilityFlow(to_data=False).table(process, STEPS), x, wavy)
    for t, p, got in zip(STEPS[:0:-1], STEPS[-2::-1], ours, strict=True):
        r2_t, r2_p = (sigma(t) / alpha(t)) ** 2, (sigma(p) / alpha(p)) ** 2
        x = alpha(p) * (x / alpha(t) + 0.5 * (r2_p - r2_t) * alpha(t) / sigma(t) * wavy(x, t))
        assert got == pytest.approx(x, rel=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_pp_is_the_papers_algorithm(process, order):
    """Lu et al. 2022, algorithm 2 and the authors' third order, in the numbers of the visited steps."""
    ours = run(DPMSolverPP(order=order, variant="published").table(process, STEPS), 1.3, wavy)
    lam = [math.log(alpha(t) / sigma(t)) for t in STEPS]
    x, past = 1.3, []
    for n in range(len(STEPS) - 1, -1, -1):
        t, p = STEPS[n], STEPS[n - 1] if n else -1
        x0 = (x - sigma(t) * wavy(x, t)) / alpha(t)
        if n == 0:
            x = x0
        else:
            h = lam[n - 1] - lam[n]
            e = math.exp(-h) - 1
            new = sigma(p) / sigma(t) * x - alpha(p) * e * x0
            if past:
                r0 = (lam[n] - lam[n + 1]) / h
                d1_0 = (x0 - past[0]) / r0
            if len(past) == 1 or (order == 2 and past):
                new -= 0.5 * alpha(p) * e * d1_0
            elif past:
                r1 = (lam[n + 1] - lam[n + 2]) / h
                d1_1 = (past[0] - past[1]) / r1
                d1 = d1_0 + r0 / (r0 + r1) * (d1_0 - d1_1)
                d2 = (d1_0 - d1_1) / (r0 + r1)
                new += alpha(p) * (e / h + 1) * d1 - alpha(p) * ((e + h) / h**2 - 0.5) * d2
            x = new
        past = [x0, *past]
        assert ours[len(STEPS) - 1 - n] == pytest.approx(x, rel=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_adams_bashforth_is_plms_on_the_ddim_step(process, order):
    """Liu et al. 2022: the transfer of eq. 13 with 3/2, −1/2 or 23/12, −16/12, 5/12 of the latest eps."""
    ours = run(AdamsBashforth(order=order, variant="published", to_data=False).table(process, STEPS), 1.3, wavy)
    weights = {1: [1.0], 2: [1.5, -0.5], 3: [23 / 12, -16 / 12, 5 / 12]}
    x, past = 1.3, []
    for t, p, got in zip(STEPS[:0:-1], STEPS[-2::-1], ours, strict=True):
        past = [wavy(x, t), *past][:order]
        eps = sum(w * e for w, e in zip(weights[len(past)], past, strict=True))
        x = alpha(p) * (x - sigma(t) * eps) / alpha(t) + sigma(p) * eps
        assert got == pytest.approx(x, rel=1e-12)


def test_large_sigma_is_ddpms(process, net):
    """The paper's σ̂ step by step against diffusers' DDPM with its larger variance, on ancestral steps."""
    scheduler = DDPMScheduler(
        1000, beta_start=1e-4, beta_end=0.02, variance_type="fixed_large", clip_sample=False, timestep_spacing="leading"
    )
    scheduler.set_timesteps(20)
    steps = scheduler.timesteps.tolist()
    table = DDIM(eta=1.0, sigma="large").table(process, steps[::-1])
    x = torch.randn(2, 1, 16, 16)
    step_noise = torch.zeros(20, 2, 1, 16, 16)  # diffusers draws its own, so the means are compared, and s apart
    ours = engine.trajectory(net, table, start=x, step_noise=step_noise)
    for i, (t, step) in enumerate(zip(steps, ours, strict=True)):
        with torch.no_grad():
            eps = net(x, torch.full((2,), t))
        theirs = scheduler.step(eps, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) if t > 0 else 0
        expected = step.x + table.s[i].item() * z
        assert (theirs - expected).norm() / expected.norm() < 5e-5
        x = step.x


@pytest.mark.parametrize(("order", "variant"), [(2, "exact"), (3, "published")])
def test_dpm_solver_pp_is_diffusers(process, net, order, variant):
    scheduler = DPMSolverMultistepScheduler(
        1000, beta_start=1e-4, beta_end=0.02, solver_order=order, timestep_spacing="linspace", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(20)
    steps = scheduler.timesteps.tolist()
    table = DPMSolverPP(order=order, variant=variant).table(process, steps[::-1])
    x = start = torch.randn(3, 1, 16, 16)
    for t, step in zip(steps, engine.trajectory(net, table, start=start), strict=True):
        with torch.no_grad():
            eps = net(x, torch.full((3,), t))
        x = scheduler.step(eps, t, x).prev_sample
        assert (step.x - x).norm() / x.norm() < 5e-6


@pytest.mark.parametrize("solver", DETERMINISTIC, ids=lambda solver: solver.name)
def test_tables_are_finite_and_end_on_the_predicted_x0(process, solver):
    for schedule in (schedules.Exp(30), schedules.Uniform(37), schedules.Linspace(10), schedules.Trailing(7)):
        table = solver.table(process, schedule(1000))
        assert all(column.isfinite().all() for column in (table.a, table.b, table.c, table.u, table.v))
        assert (table.p < table.t).all()
        assert (table.s == 0).all()
        assert (table.p[-1], table.a[-1], table.b[-1]) == (-1, 0, 1)
        assert (table.c[-1] == 0).all()


FINE = ForwardProcess(noise.linear(100_000, 1e-6, 2e-4))
MEAN, VARIANCE = 0.4, 0.3


def exact_eps(x, t):
    """ε of data N(MEAN, VARIANCE), whose score is known."""
    ab = FINE.alpha_bar(t).item()
    return math.sqrt(1 - ab) * (x - math.sqrt(ab) * MEAN) / (ab * VARIANCE + 1 - ab)


def exact_state(z, t):
    """The probability flow's solution through z standard deviations."""
    ab = FINE.alpha_bar(t).item()
    return math.sqrt(ab) * MEAN + z * math.sqrt(ab * VARIANCE + 1 - ab)


def even_in_log_snr(count):
    """Nearest steps from t = 2,000 on: nearer to the data, neighbours lie too far apart for a fine grid."""
    log_snr = FINE.log_alpha_bar(torch.arange(2000, 100_000)) - torch.log(
        FINE.one_minus_alpha_bar(torch.arange(2000, 100_000))
    )
    wanted = torch.linspace(log_snr[0], log_snr[-1], count, dtype=torch.float64)
    steps = 2000 + torch.searchsorted(-log_snr, -wanted).clamp(max=len(log_snr) - 1)
    assert len(steps.unique()) == count
    return steps.tolist()


def error(solver, steps, encode=False, exact_rows=0):
    z = 1.1
    table = (solver.encode_table if encode else solver.table)(FINE, steps)
    x = exact_state(z, int(table.f[0]))
    history = []
    for i in range(table.nfe):
        t, p = int(table.t[i]), int(table.p[i])
        x0 = (x - table.sqrt_one_minus_alpha_bar[i].item() * exact_eps(x, t)) / table.sqrt_alpha_bar[i].item()
        left = table.u[i].item() * x + table.v[i].item() * x0
        x = table.a[i].item() * x + table.b[i].item() * x0
        x += sum(w * h for w, h in zip(table.c[i].tolist(), history, strict=False))
        history = [left, *history]
        if i < exact_rows:
            x = exact_state(z, p)
    return abs(x - exact_state(z, p))


@pytest.mark.parametrize("encode", [False, True], ids=["decode", "encode"])
@pytest.mark.parametrize(
    ("solver", "order", "exact_rows"),
    [
        (DDIM(to_data=False), 1, 0),
        (ProbabilityFlow(to_data=False), 1, 0),
        (DPMSolverPP(order=2, to_data=False), 2, 0),
        (AdamsBashforth(order=2, to_data=False), 2, 0),
        (DPMSolverPP(order=3, to_data=False), 3, 2),
        (AdamsBashforth(order=3, to_data=False), 3, 2),
        (DPMSolverPP(order=3, variant="published", to_data=False), 2, 2),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_order_of_convergence(solver, order, exact_rows, encode):
    """Gaussian data, steps even in log-SNR: the error's slope over the last three doublings of NFE."""
    nfes = [160, 320, 640, 1280]
    errors = []
    for nfe in nfes:
        steps = even_in_log_snr(nfe + 1)
        errors.append(error(solver, steps, encode, exact_rows))
    slope = -np.polyfit(np.log(nfes), np.log(errors), 1)[0]
    assert abs(slope - order) < 0.15, (slope, errors)


@pytest.mark.parametrize("solver", [DPMSolverPP(order=3, to_data=False), AdamsBashforth(order=3, to_data=False)])
def test_third_order_that_starts_itself_is_of_second_at_least(solver):
    nfes = [160, 320, 640, 1280]
    errors = [error(solver, even_in_log_snr(nfe + 1)) for nfe in nfes]
    assert -np.polyfit(np.log(nfes), np.log(errors), 1)[0] > 1.85


@pytest.mark.parametrize("solver", DETERMINISTIC, ids=lambda solver: solver.name)
def test_encoding_and_decoding_come_back(process, solver):
    """From clean data to noise and back; the error falls with the number of steps."""
    errors = []
    for count in (20, 80, 320):
        steps = schedules.Quad(count)(1000)
        x = 0.8
        z = run(solver.encode_table(process, steps), x, lambda x, t: 0.9 * math.tanh(x))[-1]
        back = run(solver.table(process, steps), z, lambda x, t: 0.9 * math.tanh(x))[-1]
        errors.append(abs(back - x))
    assert errors[1] < errors[0]
    assert errors[2] < errors[0] / 8


@pytest.mark.parametrize("solver", [DDIM(clip_x0=True), DPMSolverPP(clip_x0=True)], ids=lambda solver: solver.name)
def test_encoding_refuses_what_cannot_be_undone(process, solver):
    with pytest.raises(ValueError, match="clip_x0"):
        solver.encode_table(process, STEPS)
    with pytest.raises(ValueError, match="deterministic"):
        DDIM(eta=0.5).encode_table(process, STEPS)


@pytest.mark.parametrize("arguments", [dict(order=5), dict(order=0), dict(variant="best")])
def test_unknown_orders_and_variants_are_refused(arguments):
    for solver in (DPMSolverPP, AdamsBashforth):
        with pytest.raises(ValueError, match=r"choose (1, 2 or 3|1, 2, 3 or 4|exact or published)"):
            solver(**arguments)


def test_solvers_are_frozen_and_compare(process):
    assert solvers.DPMSolverPP(order=2) == solvers.DPMSolverPP()
    first_order, ddim = DPMSolverPP(order=1).table(process, STEPS), DDIM().table(process, STEPS)
    torch.testing.assert_close(first_order.a, ddim.a, rtol=1e-12, atol=0)
    torch.testing.assert_close(first_order.b, ddim.b, rtol=1e-12, atol=0)

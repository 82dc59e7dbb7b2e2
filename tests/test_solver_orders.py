"""Solvers beside diffusers' schedulers where the conventions agree, and how fast their errors fall on Gaussian data.

Left out, because their conventions differ: diffusers' DPM-Solver singlestep takes visited steps as midpoints, its PNDM
asks twice at its first step, its IPNDM has a process of its own, and its SA-Solver changes the weights of second order.
"""

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from skipstone import ForwardProcess, engine, noise, schedules
from skipstone.solvers import BELM, DEIS, AdamsBashforth, DPMSolver, Heun, SASolver, SDEDPMSolverPP, UniPC

OURS = dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing="linspace")
MULTISTEP = OURS | dict(final_sigmas_type="zero")


def name(value):
    return getattr(value, "name", None)


@pytest.mark.parametrize(
    ("solver", "scheduler"),
    [
        (UniPC(2), lambda: UniPCMultistepScheduler(1000, solver_order=2, lower_order_final=False, **MULTISTEP)),
        (UniPC(3), lambda: UniPCMultistepScheduler(1000, solver_order=3, lower_order_final=False, **MULTISTEP)),
        (
            UniPC(3, corrector=False),
            lambda: UniPCMultistepScheduler(
                1000, solver_order=3, lower_order_final=False, disable_corrector=list(range(20)), **MULTISTEP
            ),
        ),
        (DEIS(2, "log_r"), lambda: DEISMultistepScheduler(1000, solver_order=2, lower_order_final=False, **OURS)),
        (DEIS(3, "log_r"), lambda: DEISMultistepScheduler(1000, solver_order=3, lower_order_final=False, **OURS)),
    ],
    ids=name,
)
def test_multistep_solvers_are_those_of_diffusers(process, net, solver, scheduler):
    """Step by step, but for the last step to data: there diffusers lowers the order or divides by 0."""
    scheduler = scheduler()
    scheduler.set_timesteps(20)
    steps = scheduler.timesteps.tolist()
    table = solver.table(process, steps[::-1])
    x = start = torch.randn(3, 1, 16, 16)
    for t, step in zip(steps[:-1], engine.trajectory(net, table, start=start), strict=False):
        with torch.no_grad():
            x = scheduler.step(net(x, torch.full((3,), t)), t, x).prev_sample
        assert (step.x - x).norm() / x.norm() < 5e-6


def test_heun_is_that_of_diffusers(process, net):
    """diffusers' state is x/√ᾱ; between integers it interpolates r, so the steps are integers."""
    scheduler = HeunDiscreteScheduler(1000, **OURS)
    scheduler.set_timesteps(10)
    steps = schedules.TimeUniform(10)(1000)
    table = Heun().table(process, steps)
    start = torch.randn(3, 1, 16, 16)
    x = start / process.alpha_bar(999).sqrt().float()
    for t, step in zip(scheduler.timesteps, engine.trajectory(net, table, start=start), strict=True):
        assert t == step.t
        with torch.no_grad():
            eps = net(scheduler.scale_model_input(x, t), t.expand(3))
        x = scheduler.step(eps, t, x).prev_sample
        if step.p < step.t:  # diffusers' first stage hands back the end point, as ours does
            assert (step.x - x * process.alpha_bar(step.p).sqrt()).norm() / step.x.norm() < 5e-6
    assert (step.x - x).norm() / x.norm() < 3e-5  # the weights exceed 50


@pytest.mark.parametrize("order", [1, 2])
def test_the_sde_is_that_of_diffusers(process, net, order):
    scheduler = DPMSolverMultistepScheduler(
        1000, algorithm_type="sde-dpmsolver++", solver_order=order, lower_order_final=False, **MULTISTEP
    )
    scheduler.set_timesteps(20)
    steps = scheduler.timesteps.tolist()
    table = SDEDPMSolverPP(order).table(process, steps[::-1])
    x = start = torch.randn(3, 1, 16, 16)
    step_noise = torch.randn(20, 3, 1, 16, 16)
    ours = engine.trajectory(net, table, start=start, step_noise=step_noise)
    for i, (t, step) in enumerate(zip(steps[:-1], ours, strict=False)):
        with torch.no_grad():
            eps = net(x, torch.full((3,), t))
        x = scheduler.step(eps, t, x, variance_noise=step_noise[i]).prev_sample
        assert (step.x - x).norm() / x.norm() < 5e-6


FINE = ForwardProcess(noise.linear(100_000, 1e-6, 2e-4))
MEAN, VARIANCE = 0.4, 0.3
NFES = [160, 320, 640, 1280]


def even_in_lambda(count):
    """count real times from t = 2,000 to T−1, and a few more at the start, where the order builds up."""
    log_r = 0.5 * torch.log(torch.expm1(-FINE.log_alpha_bar(torch.tensor([99_999, 2_000]))))
    points = torch.linspace(*log_r.tolist(), count, dtype=torch.float64)
    more = torch.tensor([1 / 256, 1 / 64, 1 / 16, 1 / 4], dtype=torch.float64)
    points = torch.cat([points[:1], points[0] + (points[1] - points[0]) * more, points[1:]])
    return FINE.step_at(-torch.log1p(torch.exp(2 * points))).flip(0).tolist()


def moments(table):
    """Mean and variance of what the table generates from N(√ᾱ m, ᾱ v + 1 − ᾱ), exactly: every row is affine in x and z.

    All states are affine in (1, start, z of each row).
    """
    rows = len(table.t)
    ab = table.sqrt_alpha_bar**2
    spread = ab * VARIANCE + 1 - ab
    x = torch.zeros(rows + 2, dtype=torch.float64)
    x[1] = 1.0
    history, K = [], table.c.shape[1]
    for i in range(rows):
        x0 = x * table.sqrt_alpha_bar[i] * VARIANCE / spread[i]  # E[x0 | x], of which the mean is left out
        x0[0] += MEAN * (1 - ab[i]) / spread[i]
        h = table.u[i] * x + table.v[i] * x0
        x = table.a[i] * x + table.b[i] * x0
        for c, left in zip(table.c[i], history, strict=False):
            x = x + c * left
        x[2 + i] += table.s[i]
        history = [h, *history][:K]
    start = FINE.alpha_bar(table.t[0])
    mean = x[0] + x[1] * start.sqrt() * MEAN
    variance = x[1] ** 2 * (start * VARIANCE + 1 - start) + (x[2:] ** 2).sum()
    end = FINE.alpha_bar(table.p[-1])
    return mean - end.sqrt() * MEAN, variance - (end * VARIANCE + 1 - end)


def deterministic_error(table, exact_rows=0, z=1.1):
    """Of the state that starts z standard deviations from the mean; the first rows land exactly."""

    def exact(t):
        ab = FINE.alpha_bar(t)
        return ab.sqrt() * MEAN + z * (ab * VARIANCE + 1 - ab).sqrt()

    ab = (table.sqrt_alpha_bar**2).tolist()
    x, history, K = exact(table.t[0]).item(), [], table.c.shape[1]
    columns = zip(*(getattr(table, n).tolist() for n in ("sqrt_alpha_bar", "a", "b", "c", "u", "v")), strict=True)
    for i, (signal, a, b, c, u, v) in enumerate(columns):
        x0 = (signal * VARIANCE * x + (1 - ab[i]) * MEAN) / (ab[i] * VARIANCE + 1 - ab[i])
        left = u * x + v * x0
        x = a * x + b * x0 + sum(w * h for w, h in zip(c, history, strict=False))
        history = [left, *history][:K]
        if i < exact_rows:
            x = exact(table.p[i]).item()
    return abs(x - exact(table.p[-1]).item())


def slope(errors, nfes):
    return -np.polyfit(np.log(nfes), np.log(errors), 1)[0]


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (Heun(to_data=False), 2),
        (DPMSolver(2, to_data=False), 2),
        (DPMSolver(3, to_data=False), 3),
        (DPMSolver(2, "x0", to_data=False), 2),
        (DPMSolver(3, "x0", to_data=False), 3),
        (UniPC(1, to_data=False), 2),
        (UniPC(2, to_data=False), 3),
        (UniPC(3, to_data=False), 4),
        (UniPC(2, corrector=False, to_data=False), 2),
        (UniPC(3, corrector=False, to_data=False), 3),
        (DEIS(2, to_data=False), 2),
        (DEIS(3, to_data=False), 3),
        (DEIS(3, "log_r", to_data=False), 3),
        (AdamsBashforth(4, to_data=False), 4),
        (SASolver(3, 0, tau=0.0, to_data=False), 3),
        (SASolver(2, 2, tau=0.0, to_data=False), 3),
        (BELM(to_data=False), 2),
    ],
    ids=name,
)
def test_order_of_convergence(solver, order):
    """Over the last doubling of NFE at which rounding is not yet seen."""
    errors, nfes = [], []
    for nfe in NFES:
        stages = 1 if not hasattr(solver, "most") else solver.most(1)
        table = solver.table(FINE, even_in_lambda(nfe // stages))
        nfes.append(table.nfe)
        errors.append(deterministic_error(table))
    seen = [(error, nfe) for error, nfe in zip(errors, nfes, strict=True) if error > 1e-11]
    assert len(seen) >= 3
    measured = slope(*zip(*seen[-2:], strict=True))
    assert abs(measured - order) < 0.15, (measured, errors)


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (SDEDPMSolverPP(1, to_data=False), 1),
        (SDEDPMSolverPP(2, to_data=False), 2),
        (SDEDPMSolverPP(2, "singlestep", to_data=False), 2),
        (SASolver(1, 0, tau=0.7, to_data=False), 1),
        (SASolver(2, 0, tau=1.0, to_data=False), 2),
    ],
    ids=name,
)
def test_weak_order_of_stochastic_solvers(solver, order):
    """By the exact recursion of mean and variance."""
    errors = []
    for nfe in NFES:
        mean, variance = moments(solver.table(FINE, even_in_lambda(nfe)))
        errors.append(math.hypot(mean, variance))
    assert abs(slope(errors, NFES) - order) < 0.15, errors


def test_ipndm_is_of_order_4_on_steps_even_in_r():
    r = torch.sqrt(torch.expm1(-FINE.log_alpha_bar(torch.tensor([30_000, 70_000])))).tolist()
    errors = []
    for nfe in NFES:
        points = torch.linspace(*r, nfe + 1, dtype=torch.float64)
        table = AdamsBashforth(4, "published", to_data=False).table(
            FINE, FINE.step_at(-torch.log1p(points**2)).tolist()
        )
        errors.append(deterministic_error(table, exact_rows=3))
    seen = [error for error in errors if error > 1e-11]
    assert len(seen) >= 3
    assert abs(slope(seen[-2:], NFES[len(seen) - 2 : len(seen)]) - 4) < 0.15, errors

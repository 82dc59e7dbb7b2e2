"""Solvers beside diffusers' schedulers where the conventions agree, and how fast their errors fall on Gaussian data.

Left out, because their conventions differ: diffusers' DPM-Solver singlestep takes visited steps as midpoints, its PNDM
asks twice at its first step, its IPNDM has a process of its own, and its SA-Solver changes the weights of second order.
"""

from dataclasses import replace

import pytest
import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from skipstone import engine, schedules
from skipstone.solvers import (
    BELM,
    DDIM,
    DEIS,
    EDICT,
    AdamsBashforth,
    DPMSolver,
    Heun,
    SASolver,
    SDEDPMSolverPP,
    UniPC,
    convergence,
    gaussian,
)

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


ORDERS = [
    (DDIM(), 1),
    (Heun(), 2),
    (DPMSolver(2), 2),
    (DPMSolver(3), 3),
    (DPMSolver(2, "x0"), 2),
    (DPMSolver(3, "x0"), 3),
    (UniPC(1), 2),
    (UniPC(2), 3),
    (UniPC(3), 4),
    (UniPC(2, corrector=False), 2),
    (UniPC(3, corrector=False), 3),
    (DEIS(2), 2),
    (DEIS(3), 3),
    (DEIS(3, "log_r"), 3),
    (AdamsBashforth(4), 4),
    (AdamsBashforth(4, "published"), 4),  # iPNDM, on steps even in r
    (SASolver(3, 0, tau=0.0), 3),
    (SASolver(2, 2, tau=0.0), 3),
    (BELM(), 2),
    (EDICT(), 1),
    # weak orders, by the exact recursion of mean and variance
    (SDEDPMSolverPP(1), 1),
    (SDEDPMSolverPP(2), 2),
    (SDEDPMSolverPP(2, "singlestep"), 2),
    (SASolver(1, 0, tau=0.7), 1),
    (SASolver(2, 0, tau=1.0), 2),
]


@pytest.mark.parametrize(("solver", "order"), ORDERS, ids=name)
def test_order_of_convergence(solver, order):
    """Over the last doubling of NFE at which rounding is not yet seen."""
    measured = convergence(solver)
    assert sum(error > 1e-11 for error in measured.errors) >= 3
    assert abs(measured.order - order) < 0.15, measured


@pytest.mark.parametrize("solver", [UniPC(), Heun(), DEIS(3), SDEDPMSolverPP(2)], ids=name)
def test_errors_are_those_of_the_engine(solver):
    """The Gaussian problem's network, written once more, sampled by the engine in float64."""
    mean, variance, z = 0.4, 0.3, 1.1
    process = gaussian.process()
    solver = replace(solver, to_data=False)
    table = solver.table(process, [2_000.0, 20_000.0, 50_000.0, 70_000.0, 99_999.0])

    def model(x, t):
        alpha_bar = process.alpha_bar(t).view(-1, 1, 1, 1)
        posterior = mean + alpha_bar.sqrt() * variance * (x - alpha_bar.sqrt() * mean) / (
            alpha_bar * variance + 1 - alpha_bar
        )
        return (x - alpha_bar.sqrt() * posterior) / (1 - alpha_bar).sqrt()

    def exact(t):
        alpha_bar = process.alpha_bar(t)
        return alpha_bar.sqrt() * mean + z * (alpha_bar * variance + 1 - alpha_bar).sqrt()

    start, end = process.alpha_bar(99_999.0), process.alpha_bar(2_000.0)
    if not table.stochastic:
        x = engine.sample(model, table, start=exact(99_999.0).view(1, 1, 1, 1), dtype=torch.float64)
        expected = abs(float(x - exact(2_000.0)))
        assert gaussian.trajectory_error(table) == pytest.approx(expected, rel=1e-9)
        return
    draws = torch.randn(200_000, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = engine.sample(
        model, table, start=start.sqrt() * mean + (start * variance + 1 - start).sqrt() * draws, dtype=torch.float64,
        batch_size=200_000,
    )  # fmt: skip
    off_mean, off_variance = gaussian.moments(table)
    assert float(x.mean() - end.sqrt() * mean) == pytest.approx(off_mean, abs=0.01)
    assert float(x.var() - (end * variance + 1 - end)) == pytest.approx(off_variance, abs=0.01)

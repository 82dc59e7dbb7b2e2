"""The engine's three ways to run a table, and DDIM's table itself, against a dozen lines that read like the paper."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipstone import ForwardProcess, engine, noise, rng, schedules, solvers
from skipstone.engine import reference

N, SHAPE = 5, (2, 3, 4)
SCHEDULES = [
    schedules.Uniform, schedules.Exp, schedules.Quad, schedules.Leading, schedules.Linspace, schedules.Trailing
]  # fmt: skip
CHAIN = 1e-12  # of a chain whose radicand 1−ᾱ_p−σ² keeps its digits


def model(x, t):
    """Pixels of a sample meet, samples do not: no batch changes the order of a sum."""
    return torch.tanh(x + x.roll(1, -1)) * (0.5 + t.to(x.dtype).view(-1, 1, 1, 1) / 1000) - 0.1 * x


def by_the_paper(process, timesteps, eta, seed, to_data=True):
    """What the reference makes of the noise that belongs to samples 0 … N−1 of this seed."""
    index = torch.arange(N)
    start = rng.normal(seed, rng.Stream.START, index, SHAPE, dtype=torch.float64)

    def z(t):
        return rng.normal(seed, rng.Stream.STEP, index, SHAPE, t, torch.float64)

    return reference.ddim(model, process, timesteps, start, eta, z, to_data)


def distance(x, expected):
    return ((x - expected).norm() / expected.norm()).item()


def lost(process, timesteps, eta, to_data):
    """What the paper's form itself loses: √(1−ᾱ_p−σ²), by its subtraction, at the worst step.

    A rounding of 1e-16 in a radicand of size q is one of 1e-16/√q in its root.
    """
    table = solvers.DDIM(eta=eta, to_data=to_data).table(process, timesteps)
    roots = table.a * table.sqrt_one_minus_alpha_bar
    roots = roots[table.p >= 0]
    return 0.0 if not len(roots) else (4e-16 / roots.clamp(min=2e-8)).max().item()


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(SCHEDULES),
    betas=st.sampled_from([noise.linear, noise.cosine, noise.scaled_linear]),
    num_steps=st.sampled_from([20, 100, 1000]),
    tau=st.integers(2, 19),
    eta=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    to_data=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
def test_the_engine_runs_the_paper(kind, betas, num_steps, tau, eta, to_data, seed):
    """`sample`, the last step of `trajectory`, and `sample_many`, whose slots run other tables beside this one."""
    process = ForwardProcess(betas(num_steps))
    timesteps = kind(tau)(num_steps)
    table = solvers.DDIM(eta=eta, to_data=to_data).table(process, timesteps)
    others = [solvers.AdamsBashforth(order=3).table(process, [0, 7, 9, 19]), solvers.DDIM(1.0).table(process, [0, 19])]
    expected = by_the_paper(process, timesteps, eta, seed, to_data)
    bound = CHAIN + 10 * lost(process, timesteps, eta, to_data)
    # given, because short chains and short walks do not begin in pure noise, which the engine refuses to draw for them
    start = rng.normal(seed, rng.Stream.START, torch.arange(N), SHAPE, dtype=torch.float64)
    asked = dict(start=start, seed=seed, dtype=torch.float64)
    assert distance(engine.sample(model, table, **asked), expected) < bound
    *_, last = engine.trajectory(model, table, **asked)
    assert distance(last.x, expected) < bound
    _, packed, _ = engine.sample_many(model, [others[0], table, others[1]], batch_size=4, **asked)
    assert distance(packed, expected) < bound


@pytest.mark.parametrize("eta", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_to_twelve_digits_over_a_thousand_steps(process, kind, eta):
    """All schedules at once in one packed batch, each to 1e-12: below eta = 1 the paper's form loses no digits."""
    steps = [kind(tau)(1000) for tau in (10, 50)] + [schedules.Uniform(1)(1000)]
    tables = [solvers.DDIM(eta=eta).table(process, timesteps) for timesteps in steps]
    packed = engine.sample_many(model, tables, N, SHAPE, seed=3, batch_size=7, dtype=torch.float64)
    for timesteps, x in zip(steps, packed, strict=True):
        assert distance(x, by_the_paper(process, timesteps, eta, 3)) < CHAIN


def test_the_trajectory_is_the_papers_at_every_step(process):
    timesteps = schedules.Exp(12)(1000)
    table = solvers.DDIM(eta=0.5).table(process, timesteps)
    steps = list(engine.trajectory(model, table, N, SHAPE, seed=3, dtype=torch.float64))
    for i, step in enumerate(steps[:-1]):
        there = timesteps[len(timesteps) - 2 - i :]  # the walk that ends where this step does
        assert step.p == there[0]
        assert distance(step.x, by_the_paper(process, there, 0.5, 3, to_data=False)) < CHAIN
    assert distance(steps[-1].x, by_the_paper(process, timesteps, 0.5, 3)) < CHAIN


def test_sigma_over_the_visited_steps_and_not_the_adjacent_is_what_is_held(process):
    """The comparison can fail: another σ, and noise of another step, are seen."""
    timesteps = schedules.Exp(12)(1000)
    expected = by_the_paper(process, timesteps, 0.2, 3)
    adjacent = solvers.DDIM(eta=0.2, sigma="adjacent").table(process, timesteps)
    assert distance(engine.sample(model, adjacent, N, SHAPE, seed=3, dtype=torch.float64), expected) > 1e-3
    table = solvers.DDIM(eta=0.2).table(process, timesteps)
    assert distance(engine.sample(model, table, N, SHAPE, seed=4, dtype=torch.float64), expected) > 1e-3

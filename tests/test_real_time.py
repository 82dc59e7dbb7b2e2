"""Real times: ᾱ between the steps, tables that visit them, what the network is given, and the noise that they draw."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from skipstone import ForwardProcess, UNet, VelocityUNet, engine, noise, schedules, solvers
from skipstone.network.unet import timestep_embedding

SHAPE = (1, 4, 4)
SOLVERS = [
    solvers.DDIM(),
    solvers.DDIM(eta=0.7),
    solvers.DDIM(eta=1.0, sigma="large"),
    solvers.ProbabilityFlow(),
    solvers.DPMSolverPP(order=3),
    solvers.AdamsBashforth(order=3),
]


def model(x, t):
    return torch.tanh(x + x.roll(1, -1)) * (0.5 + t.to(x.dtype).view(-1, 1, 1, 1) / 1000) - 0.1 * x


@pytest.fixture
def karras(process):
    return schedules.Karras(7, process.betas)(1000)


def test_log_alpha_bar_is_linear_between_the_steps(process):
    log_alpha_bars = np.concatenate([[0], np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, 1000)))])
    t = np.random.default_rng(0).uniform(-1, 999, 500)
    expected = np.interp(t, np.arange(-1, 1000), log_alpha_bars)
    real = torch.from_numpy(t)
    torch.testing.assert_close(process.log_alpha_bar(real), torch.from_numpy(expected), rtol=1e-13, atol=1e-15)
    assert process.alpha_bar(-0.5).item() == pytest.approx(math.sqrt(1 - 1e-4), rel=1e-14)
    torch.testing.assert_close(process.step_at(process.log_alpha_bar(real)), real, rtol=0, atol=1e-9)
    integers = torch.arange(-1, 1000)
    assert torch.equal(process.log_alpha_bar(integers.double()), process.log_alpha_bar(integers))
    assert torch.equal(process.step_at(process.log_alpha_bar(integers)), integers.double())
    signal, level = process.roots(real)
    torch.testing.assert_close(signal, process.alpha_bar(real).sqrt(), rtol=1e-15, atol=0)
    torch.testing.assert_close(level, process.one_minus_alpha_bar(real).sqrt(), rtol=1e-15, atol=0)


@pytest.mark.parametrize("t", [-1.01, 999.5, float("nan")])
def test_a_real_time_outside_is_refused(process, t):
    with pytest.raises(ValueError, match=r"t must lie within -1 \.\.\. 999"):
        process.alpha_bar(t)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)
def test_integers_written_as_floats_give_the_same_numbers_to_the_last_bit(process, solver):
    steps = schedules.Exp(9)(1000)
    pairs = [(solver.table(process, steps), solver.table(process, [float(step) for step in steps]))]
    if getattr(solver, "eta", 0) == 0:
        pairs.append((solver.encode_table(process, steps), solver.encode_table(process, [float(s) for s in steps])))
    assert torch.equal(pairs[0][0].noise_keys, pairs[0][0].t)
    for integers, reals in pairs:
        assert {integers.f.dtype, integers.t.dtype, integers.p.dtype, integers.asked.dtype} == {torch.int64}
        assert {reals.f.dtype, reals.t.dtype, reals.p.dtype, reals.asked.dtype} == {torch.float64}
        assert torch.equal(integers.noise_keys, reals.noise_keys)
        for name in ("sqrt_alpha_bar", "sqrt_one_minus_alpha_bar", "a", "b", "c", "s", "u", "v"):
            assert torch.equal(getattr(integers, name), getattr(reals, name)), name
        x = engine.sample(model, integers, start=torch.ones(2, *SHAPE), seed=3)
        assert torch.equal(x, engine.sample(model, reals, start=torch.ones(2, *SHAPE), seed=3))


def test_the_network_gets_what_its_table_has(process, karras):
    seen = []

    def watched(x, t):
        seen.append(t.clone())
        return 0.1 * x

    for steps, dtype in (((0, 500, 999), torch.int64), (karras, torch.float64)):
        table = solvers.DDIM(eta=1.0).table(process, steps)
        for run in (engine.sample, lambda m, table, *a: engine.sample_many(m, [table], *a, batch_size=2)):
            seen.clear()
            run(watched, table, 2, SHAPE)
            assert {t.dtype for t in seen} == {dtype}
            assert [t[0].item() for t in seen] == list(steps)[::-1]


def test_below_the_first_step_the_network_is_asked_there(process):
    steps = schedules.Karras(5, process.betas, sigma_min=0.002)(1000)
    table = solvers.DDIM().table(process, steps)
    assert -1 < steps[0] < 0
    r = table.sqrt_one_minus_alpha_bar[-1] / table.sqrt_alpha_bar[-1]
    assert r.item() == pytest.approx(0.002, rel=1e-12)
    assert table.asked.tolist() == [*steps[:0:-1], 0.0]
    assert table.t.tolist() == list(steps[::-1])


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim_on_real_times_is_equations_12_and_16(process, karras, eta):
    table = solvers.DDIM(eta=eta).table(process, karras)
    times = [*karras[::-1], -1.0]
    for i, (t, p) in enumerate(pairwise(times)):
        at, ap = process.alpha_bar(t).item(), process.alpha_bar(p).item()
        sigma = eta * math.sqrt((1 - ap) / (1 - at) * (1 - at / ap))
        a = math.sqrt(max(1 - ap - sigma**2, 0) / (1 - at))
        assert table.s[i].item() == pytest.approx(sigma, rel=1e-9)
        assert table.a[i].item() == pytest.approx(a, rel=1e-9)
        assert table.b[i].item() == pytest.approx(math.sqrt(ap) - a * math.sqrt(at), rel=1e-9)


def test_packed_and_alone_are_the_same(process, karras):
    tables = [solver.table(process, karras) for solver in SOLVERS]
    tables += [solver.table(process, schedules.Exp(5)(1000)) for solver in SOLVERS]  # integers in the same batch
    many = engine.sample_many(model, tables, 5, SHAPE, seed=3, batch_size=7, dtype=torch.float64)
    for table, x in zip(tables, many, strict=True):
        alone = engine.sample(model, table, 5, SHAPE, seed=3, dtype=torch.float64)
        torch.testing.assert_close(x, alone, rtol=1e-12, atol=1e-12)


def test_tables_of_real_times_are_inverted(process):
    steps = schedules.Karras(40, process.betas)(1000)
    table = solvers.DDIM(to_data=False).table(process, steps)
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    start, rows = engine.invert(lambda x, t: 0.3 * model(x, t), table, x, tolerance=1e-13)
    assert [row.t for row in rows] == list(steps[1:])
    assert all(row.converged for row in rows)
    back = engine.sample(lambda x, t: 0.3 * model(x, t), table, start=start, dtype=torch.float64)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)


def test_noise_of_real_times_and_of_later_visits_has_keys_of_its_own(process, karras):
    table = solvers.DDIM(eta=1.0).table(process, karras)
    keys = table.noise_keys.tolist()
    assert (keys[0], keys[-1]) == (999, 0)  # integers at their first visit
    assert all(2**31 <= key < 2**32 for key in keys[1:-1])
    assert len(set(keys)) == len(keys)
    columns = {name: column for name, column in vars(table).items() if isinstance(column, torch.Tensor)}
    both = {name: torch.cat([column] * 2) for name, column in columns.items()}
    twice = solvers.StepTable(**both).noise_keys.tolist()
    assert twice[: len(keys)] == keys
    assert len(set(twice)) == 2 * len(keys)


def test_a_time_that_is_visited_twice_draws_other_noise_also_when_packed(process):
    """The model is 0 and both rows start at t = 500, so that only what was drawn tells them apart."""
    once = solvers.DDIM(eta=1.0).table(process, [500, 999])
    rows = torch.tensor([0, 0, 1])
    names = [name for name, column in vars(once).items() if isinstance(column, torch.Tensor)]
    table = solvers.StepTable(**{name: getattr(once, name)[rows] for name in names})
    table = dataclasses.replace(table, a=torch.zeros(3).double(), b=torch.zeros(3).double())

    def states(seed):
        return [step.x for step in engine.trajectory(lambda x, t: 0 * x, table, 2, SHAPE, seed=seed)]

    first, second, _ = states(0)
    assert not torch.equal(first, second)
    assert torch.equal(first, states(0)[0])
    kept = dataclasses.replace(table, s=table.s.clone())
    kept.a[2] = 1.0  # the last row passes on what the second drew
    (packed,) = engine.sample_many(lambda x, t: 0 * x, [kept], 2, SHAPE, batch_size=2)
    assert torch.equal(packed, engine.sample(lambda x, t: 0 * x, kept, start=torch.zeros(2, *SHAPE)))
    torch.testing.assert_close(packed, second)


def test_schedules_of_real_times(process):
    r = (1 / process.alpha_bar(torch.tensor([0, 999])) - 1).sqrt()
    for count in (2, 5, 12):
        steps = torch.tensor(schedules.Karras(count, process.betas)(1000), dtype=torch.float64)
        i = torch.arange(count, dtype=torch.float64)
        wanted = (r[1] ** (1 / 7) + i / (count - 1) * (r[0] ** (1 / 7) - r[1] ** (1 / 7))) ** 7  # EDM, Eq. 5
        found = (1 / process.alpha_bar(steps) - 1).sqrt().flip(0)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)
        assert schedules.TimeUniform(count)(1000) == pytest.approx(np.linspace(0, 999, count), abs=1e-9)
        quadratic = np.linspace(1, math.sqrt(1000), count) ** 2 - 1
        assert schedules.Polynomial(count)(1000) == pytest.approx(quadratic, abs=1e-9)
    for schedule in (schedules.Karras(300, process.betas), schedules.Polynomial(300), schedules.TimeUniform(300)):
        steps = schedule(1000)
        assert (len(set(steps)), steps[0], steps[-1]) == (300, 0.0, 999.0)
        assert list(steps) == sorted(steps)
        assert dataclasses.replace(schedule, tau=1)(1000) == (999.0,)


@pytest.mark.parametrize(
    "steps", [[0.5, 0.5, 3.0], [5.0, 3.5], [0.0, 999.5], [-1.0, 5.0], [float("nan"), 5.0], [2, 1.5]]
)
def test_impossible_real_times_are_refused(process, steps):
    with pytest.raises(ValueError, match=r"ascending, unique and within 0 \.\.\. 999"):
        solvers.DDIM().table(process, steps)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (lambda betas: schedules.Karras(5, betas, rho=0.5), "rho=0.5"),
        (lambda betas: schedules.Karras(5, betas, sigma_max=1e3), "the largest noise of this process"),
        (lambda betas: schedules.Karras(5, betas, sigma_min=3.0, sigma_max=2.0), "sigma_min < sigma_max"),
        (lambda betas: schedules.Karras(0, betas), "tau=0"),
        (lambda betas: schedules.Polynomial(5, rho=float("nan")), "rho=nan"),
        (lambda betas: schedules.Custom(["a", 3]), "list integers or real times"),
    ],
)
def test_impossible_schedules_are_refused(process, schedule, said):
    with pytest.raises(ValueError, match=said):
        schedule(process.betas)(1000)


def test_adjacent_sigma_is_refused_on_real_times(process, karras):
    with pytest.raises(ValueError, match="needs integer steps"):
        solvers.DDIM(eta=0.2, sigma="adjacent").table(process, karras)


def test_networks_take_real_times(process):
    torch.manual_seed(0)
    t = torch.tensor([0.0, 12.25, 998.5, 999.0], dtype=torch.float64)
    angles = t[:, None] * 10_000 ** -(torch.arange(16).double() / 15)
    torch.testing.assert_close(
        timestep_embedding(t, 32), torch.cat([angles.sin(), angles.cos()], 1), atol=1e-11, rtol=0
    )
    size = dict(base=8, multipliers=(1, 2), blocks=1, attention=(8,))
    for net in (UNet(16, 1, **size).eval(), VelocityUNet(16, 1, **size, betas=process.betas).eval()):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
            x = torch.randn(4, 1, 16, 16)
            integers = torch.tensor([0, 12, 999, 500])
            torch.testing.assert_close(net(x, integers.double()), net(x, integers), rtol=1e-6, atol=1e-6)
            between = [net(x, torch.full((4,), at, dtype=torch.float64)) for at in (500.0, 500.5, 501.0)]
        middle = (between[0] + between[2]) / 2
        assert (between[1] - middle).norm() < 0.3 * (between[0] - between[2]).norm()


def test_a_process_of_one_step_has_real_times_too():
    process = ForwardProcess(torch.tensor([0.1]))
    assert process.log_alpha_bar(-0.5).item() == pytest.approx(math.log(0.9) / 2)


def test_the_other_processes_have_the_same_ends():
    betas = noise.cosine()
    assert schedules.Karras(5, betas)(1000)[::4] == (0.0, 999.0)

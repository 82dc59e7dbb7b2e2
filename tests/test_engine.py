import math

import pytest
import torch

from skipstone import engine, schedules, solvers

SHAPE = (1, 16, 16)


@pytest.fixture
def table(process):
    return solvers.DDIM(eta=1.0).table(process, schedules.Exp(6)(1000))


def test_gaussian_data_is_sampled_exactly(process):
    """Data N(μ, 1) has a known ε; DDIM over many steps carries N(0, 1) noise to μ + z."""
    mean = 0.7

    def model(x, t):
        alpha_bar = process.alpha_bar(t)[0]
        return torch.sqrt(1 - alpha_bar) * (x - torch.sqrt(alpha_bar) * mean)

    table = solvers.DDIM().table(process, range(1000))
    z = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    x = engine.sample(model, table, start=z, dtype=torch.float64)
    torch.testing.assert_close(x, z + mean, rtol=0, atol=0.02)  # ᾱ_T is not quite 0, and T is finite
    coarse = engine.sample(model, solvers.DDIM().table(process, range(0, 1000, 100)), start=z, dtype=torch.float64)
    assert (coarse - (z + mean)).abs().max() > 2 * (x - (z + mean)).abs().max()


def test_sample_k_does_not_depend_on_n_or_companions(net, table):
    alone = engine.sample(net, table, 1, SHAPE, seed=3, batch_size=4)
    many = engine.sample(net, table, 10, SHAPE, seed=3, batch_size=4)
    assert many.shape == (10, *SHAPE)
    assert torch.equal(many[:1], alone)
    assert torch.equal(engine.sample(net, table, 6, SHAPE, seed=3, batch_size=4), many[:6])
    assert not torch.equal(many[0], many[1])
    assert not torch.equal(engine.sample(net, table, 1, SHAPE, seed=4, batch_size=4), alone)


def test_sample_k_is_the_same_at_batch_size_1_and_16(net, table):
    one = engine.sample(net, table, 16, SHAPE, batch_size=1)
    sixteen = engine.sample(net, table, 16, SHAPE, batch_size=16)
    assert (one - sixteen).norm() / sixteen.norm() < 1e-6  # an untrained network lets x grow to thousands


def test_trajectory_ends_where_sample_does(net, table):
    steps = list(engine.trajectory(net, table, 3, SHAPE, seed=1))
    assert [(s.t, s.p) for s in steps] == list(zip(table.t.tolist(), table.p.tolist(), strict=True))
    assert torch.equal(steps[-1].x, engine.sample(net, table, 3, SHAPE, seed=1))
    assert torch.equal(steps[-1].x, steps[-1].x0)  # the last row lands on the predicted x0


def test_tables_share_the_noise_of_the_steps_they_share(process):
    """The model is 0, so x is the noise that went in, scaled: cells compare because their noise does."""
    long = solvers.DDIM(eta=1.0).table(process, [0, 300, 600, 999])
    short = solvers.DDIM(eta=1.0).table(process, [300, 600, 999])

    def noises(table):
        x = engine.sample(lambda x, t: torch.zeros_like(x), table, 2, SHAPE, dtype=torch.float64)
        return [x] + [
            s.x for s in engine.trajectory(lambda x, t: torch.zeros_like(x), table, 2, SHAPE, dtype=torch.float64)
        ]

    assert torch.equal(noises(long)[1], noises(short)[1])
    assert torch.equal(noises(long)[2], noises(short)[2])


def test_clipping_keeps_x0_in_range(net, process):
    table = solvers.DDIM(clip_x0=True).table(process, schedules.Exp(6)(1000))
    steps = list(engine.trajectory(net, table, 4, SHAPE))
    assert all(step.x0.abs().max() <= 1 for step in steps)
    wild = list(engine.trajectory(net, solvers.DDIM().table(process, schedules.Exp(6)(1000)), 4, SHAPE))
    assert any(step.x0.abs().max() > 1 for step in wild)


def test_the_callers_modes_are_restored_also_after_an_exception(net, table):
    net.train()
    net.middle1.eval()
    before = [module.training for module in net.modules()]
    engine.sample(net, table, 1, SHAPE)
    assert [module.training for module in net.modules()] == before

    seen = []
    net.middle2.register_forward_hook(lambda *_: seen.append([m.training for m in net.modules()]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.sample(net, table, 1, SHAPE)
    assert not any(seen[0])
    assert [module.training for module in net.modules()] == before


def test_a_trajectory_that_is_not_finished_restores_modes_when_closed(net, table):
    net.train()
    steps = engine.trajectory(net, table, 1, SHAPE)
    next(steps)
    steps.close()
    assert net.training


def test_no_graph_is_kept_and_grad_mode_is_the_callers(net, table):
    assert not engine.sample(net, table, 1, SHAPE).requires_grad
    for step in engine.trajectory(net, table, 1, SHAPE):
        assert torch.is_grad_enabled()
        assert not step.x.requires_grad


def test_the_trajectory_keeps_its_precision_whatever_the_networks(net, table):
    reference = engine.sample(net, table, 2, SHAPE)
    assert engine.sample(net, table, 2, SHAPE, dtype=torch.float64).dtype == torch.float64
    low = engine.sample(net.bfloat16(), table, 2, SHAPE)
    assert low.dtype == torch.float32
    assert 0 < (low - reference).norm() / reference.norm() < 0.2


@pytest.mark.parametrize(
    "arguments", [{}, dict(n=2), dict(shape=SHAPE), dict(n=0, shape=SHAPE), dict(n=3, start=torch.zeros(2, *SHAPE))]
)
def test_unclear_requests_are_refused(net, table, arguments):
    with pytest.raises(ValueError, match=r"n=|n and shape"):
        engine.sample(net, table, **arguments)


def test_a_bf16_network_runs_a_float32_trajectory(net, table):
    full = engine.sample(net, table, 2, SHAPE)
    seen = []
    net.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].dtype))
    half = engine.sample(net.bfloat16(), table, 2, SHAPE)
    assert set(seen) == {torch.bfloat16}
    assert half.dtype == torch.float32
    assert (half - full).norm() / full.norm() < 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_sample_on_the_gpu_is_the_one_on_the_cpu(net, table):
    reference = engine.sample(net.double(), table, 8, SHAPE, dtype=torch.float64)
    on_gpu = engine.sample(net.cuda(), table, 8, SHAPE, dtype=torch.float64)
    assert on_gpu.is_cuda
    assert (on_gpu.cpu() - reference).norm() / reference.norm() < 1e-9


@pytest.mark.parametrize("clip_x0", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("packed", [False, True])
def test_samples_that_are_not_finite_are_named_with_their_first_t(process, clip_x0, value, packed):
    def model(x, t):  # sample 1 alone is bright, from the start to the end
        sick = (t == 500) & (x.mean(dim=(1, 2, 3)) > 0)
        return torch.where(sick[:, None, None, None], value, 0.1 * x)

    table = solvers.DDIM(clip_x0=clip_x0).table(process, [0, 250, 500, 750, 999])
    start = torch.rand(3, 1, 4, 4) * torch.tensor([-1.0, 1.0, -1.0]).view(3, 1, 1, 1)
    x = engine.sample_many(model, [table], start=start)[0] if packed else engine.sample(model, table, start=start)
    lost = engine.not_finite(model, table, x, start=start)
    assert (lost.samples, lost.total, lost.t) == ([1], 3, 500)
    assert str(lost).startswith("1 of 3 samples (1) are not finite")
    assert engine.not_finite(model, table, x[[0, 2]], start=start[[0, 2]]) is None


def test_clipping_leaves_finite_numbers_as_they_are(process):
    table = solvers.DDIM(clip_x0=True).table(process, [0, 250, 500, 750, 999])
    x = start = torch.randn(3, 1, 4, 4)
    for i in range(len(table.t)):
        signal, noise, a, b = (
            float(column[i]) for column in (table.sqrt_alpha_bar, table.sqrt_one_minus_alpha_bar, table.a, table.b)
        )
        x = a * x + b * ((x - noise * (0.1 * x)) / signal).clamp(-1, 1)
    assert torch.equal(engine.sample(lambda x, t: 0.1 * x, table, start=start), x)

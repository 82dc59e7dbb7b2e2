import math
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from skipstone import ForwardProcess, engine, noise, schedules, solvers


@pytest.mark.parametrize(
    ("betas", "theirs"),
    [
        (noise.linear(), dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)),
        (noise.scaled_linear(), dict(beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=0.012)),
        (noise.cosine(), dict(beta_schedule="squaredcos_cap_v2")),
    ],
)
def test_betas_are_those_of_diffusers(betas, theirs):
    reference = DDPMScheduler(num_train_timesteps=1000, **theirs).betas
    assert betas.dtype == torch.float64
    torch.testing.assert_close(betas.float(), reference, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("bad", [dict(num_steps=1), dict(beta_1=0.0), dict(beta_T=1.0), dict(beta_1=0.5, beta_T=0.1)])
def test_impossible_betas_are_refused(bad):
    with pytest.raises(ValueError, match="noise"):
        noise.linear(**bad)


def test_alpha_bar_is_the_product_and_starts_at_clean_data(process):
    betas = np.linspace(1e-4, 0.02, 1000)
    product = np.cumprod(1 - betas)
    np.testing.assert_allclose(process.alpha_bars.numpy(), product, rtol=1e-12)
    assert process.alpha_bar(-1) == 1
    assert process.one_minus_alpha_bar(-1) == 0
    exact = math.fsum(math.log1p(-b) for b in betas[:3])
    assert process.one_minus_alpha_bar(2).item() == pytest.approx(-math.expm1(exact), rel=1e-14)


@pytest.mark.parametrize("t", [-2, 1000])
def test_steps_outside_the_process_are_refused(process, t):
    with pytest.raises(ValueError, match=r"-1 \.\.\. 999"):
        process.alpha_bar(t)


def test_diffuse_predict_x0_and_predict_eps_are_one_equation(process):
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 50, 1, 4, 4, dtype=torch.float64, generator=generator)
    t = torch.arange(50) * 20
    x_t = process.diffuse(x0, t, eps)
    # Eq. 4 in numpy
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[t.numpy()].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(x_t, np.sqrt(alpha_bar) * x0.numpy() + np.sqrt(1 - alpha_bar) * eps.numpy(), rtol=1e-9)
    torch.testing.assert_close(process.predict_x0(x_t, t, eps), x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(process.predict_eps(x_t, t, x0), eps, rtol=0, atol=1e-10)


def test_one_step_after_another_gives_the_marginal(process):
    """Mean and variance of the Markov chain x_t = √α_t x_{t−1} + √β_t ε, step by step, are q(x_t | x_0)'s."""
    mean, variance = 1.0, 0.0
    for t in range(process.num_steps):
        alpha, beta = process.alphas[t].item(), process.betas[t].item()
        mean, variance = math.sqrt(alpha) * mean, alpha * variance + beta
        if t in (0, 10, 500, 999):
            assert process.alpha_bar(t).sqrt().item() == pytest.approx(mean, rel=1e-12)
            assert process.one_minus_alpha_bar(t).item() == pytest.approx(variance, rel=1e-12)


def test_betas_outside_the_unit_interval_are_refused():
    for betas in (torch.tensor([0.1, 1.0]), torch.tensor([0.0]), torch.empty(0), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="betas"):
            ForwardProcess(betas)


def gaussian(process, mean=0.4, std=0.2):
    """The exact ε-network of data N(mean, std²), every pixel by itself."""

    def eps(x, t):
        t = int(t[0])
        signal, noise = process.alpha_bar(t).sqrt(), process.one_minus_alpha_bar(t)
        return noise.sqrt() * (x - signal * mean) / (signal**2 * std**2 + noise)

    return eps


@pytest.mark.parametrize("num_steps", [50, 100, 250, 1000])
@pytest.mark.parametrize("betas", [noise.linear, noise.scaled_linear])
def test_with_rescaled_betas_a_perfect_network_gives_the_data_whatever_t_is(betas, num_steps):
    process = ForwardProcess(betas(num_steps, rescale=True))
    table = solvers.DDIM().table(process, range(num_steps))
    x = engine.sample(gaussian(process), table, 64, (1, 40, 40), dtype=torch.float64)
    assert x.mean().item() == pytest.approx(0.4, abs=0.006)
    assert x.std().item() == pytest.approx(0.2, abs=0.004 + 2 / num_steps)  # DDIM's own error falls as 1/T


def test_rescaled_betas_are_those_of_improved_diffusion_and_of_t_1000():
    torch.testing.assert_close(noise.linear(1000, rescale=True), noise.linear(1000), rtol=0, atol=0)
    expected = torch.linspace(10 * 1e-4, 10 * 0.02, 100, dtype=torch.float64)
    torch.testing.assert_close(noise.linear(100, rescale=True), expected, rtol=1e-15, atol=0)
    ends = [ForwardProcess(noise.linear(T, rescale=True)).alpha_bars[-1].sqrt().item() for T in (100, 250, 4000)]
    assert max(ends) < 0.01
    assert noise.linear(10, rescale=True).max() == 0.999


@pytest.mark.parametrize("run", ["sample", "trajectory", "sample_many"])
def test_pure_noise_where_an_image_is_left_is_refused_or_warned_of(run, process):
    def sample(process, steps, start=None):
        table, n, shape = solvers.DDIM().table(process, steps), None if start is not None else 2, (1, 4, 4)
        asked = dict(n=n, shape=None if n is None else shape, start=start)
        model = gaussian(process)
        if run == "sample_many":
            return engine.sample_many(lambda x, t: 0 * x, [table], **asked)
        return list(getattr(engine, run)(model, table, **asked))

    short = ForwardProcess(noise.linear(100))
    with pytest.raises(ValueError, match=r"at t=99, where sqrt\(alpha_bar\)=0.603 .* at most 0.3: .*noise=rescaled"):
        sample(short, range(100))
    with pytest.raises(ValueError, match="at t=300"):
        sample(process, [0, 100, 300])
    sample(short, range(100), start=torch.randn(2, 1, 4, 4))
    with pytest.warns(UserWarning, match="at t=600"):
        sample(process, [0, 100, 600])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(process, schedules.Quad(10)(1000))
        sample(ForwardProcess(noise.scaled_linear()), [0, 999])
    with pytest.raises(ValueError, match="less than float32 resolves"):
        sample(ForwardProcess(torch.full((40,), 0.7)), [0, 39])


def test_a_process_without_an_image_at_its_end_is_refused():
    with pytest.raises(ValueError, match="alpha_bar = 0"):
        ForwardProcess(torch.full((1000,), 0.99))
    with pytest.raises(ValueError, match=r"betas must be a torch\.Tensor, got ndarray"):
        ForwardProcess(noise.linear().numpy())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_steps_may_be_of_any_integer_type(process, dtype):
    t = torch.tensor([3, torch.iinfo(dtype).max if dtype in (torch.uint8, torch.int8) else 999], dtype=dtype)
    assert torch.equal(process.alpha_bar(t), process.alpha_bar(t.long()))
    assert torch.equal(process.alpha_bar(t[1:].repeat(2)), process.alpha_bar(t.long()[1:].repeat(2)))
    x, eps = torch.rand(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    for function in (process.diffuse, process.predict_x0, process.predict_eps):
        assert torch.equal(function(x, t, eps), function(x, t.long(), eps))
    long = ForwardProcess(noise.linear(40_000, 1e-6, 1e-5))  # T itself is no int16
    assert torch.equal(long.alpha_bar(t), long.alpha_bar(t.long()))
    with pytest.raises(ValueError, match="t must be integers"):
        ForwardProcess(noise.linear(100)).alpha_bar(t)


def test_clean_data_is_minus_one_and_every_other_t_outside_is_refused(process):
    x0, eps = torch.rand(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    clean = torch.tensor([-1, -1, 5])
    x = process.diffuse(x0, clean, eps)
    assert torch.equal(x[:2], x0[:2])
    assert not torch.equal(x[2], x0[2])
    assert torch.equal(process.predict_x0(x0, clean, eps)[:2], x0[:2])
    with pytest.raises(ValueError, match="t=-1 is clean data"):
        process.predict_eps(x, clean, x0)
    for t in (torch.tensor([-2, 0, 0]), torch.tensor([0, 1000, 0]), torch.tensor([0.5, 1.0, 2.0])):
        for function in (process.diffuse, process.predict_x0, process.predict_eps):
            with pytest.raises(ValueError, match=r"t must be integers in -1 \.\.\. 999"):
                function(x0, t, eps)
        if not t.is_floating_point():  # between the steps it is interpolated: see test_real_time.py
            with pytest.raises(ValueError, match="t must be integers"):
                process.alpha_bar(t)
    with pytest.raises(ValueError, match=r"float in the \[-1, 1\] scale, got torch.uint8"):
        process.diffuse((255 * x0).byte(), clean, eps)

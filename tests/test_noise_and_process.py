import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from skipstone import ForwardProcess, noise


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

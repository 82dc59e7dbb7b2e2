"""Distances against independent float64 numpy, and what the proxies promise."""

import numpy as np
import pytest
import scipy.linalg
import torch

from skipstone import engine, metrics, schedules, solvers
from skipstone.data import ImageSet


def features(n, d, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + shift)


def test_frechet_is_numpys():
    real, fake = features(300, 16), features(200, 16, shift=0.3, seed=1)
    a, b = real.numpy(), fake.numpy()
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert metrics.frechet(real, fake) == pytest.approx(expected, rel=1e-6)
    assert abs(metrics.frechet(real, real)) < 1e-6 * np.trace(np.cov(a.T))


def test_kernel_is_numpys_and_leaves_the_generator_alone():
    real, fake = features(50, 8), features(50, 8, shift=0.3, seed=1)
    before = torch.random.get_rng_state()
    mean, spread = metrics.kernel(real, fake, subsets=3, subset_size=1000)
    assert torch.equal(torch.random.get_rng_state(), before)
    a, b = real.numpy(), fake.numpy()

    def k(x, y):
        return (x @ y.T / 8 + 1) ** 3

    def off_diagonal(m):
        return (m.sum() - np.trace(m)) / (50 * 49)

    assert mean == pytest.approx(off_diagonal(k(a, a)) + off_diagonal(k(b, b)) - 2 * k(a, b).mean(), rel=1e-6)
    assert spread == pytest.approx(0, abs=1e-9)  # a subset of everything is always the same
    assert metrics.kernel(real, fake, 5, 20) == metrics.kernel(real, fake, 5, 20)
    assert metrics.kernel(real, fake, 5, 20, seed=1) != metrics.kernel(real, fake, 5, 20)


def test_random_features_are_fixed_and_tell_images_apart():
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    extractor = metrics.RandomFeatures(3)
    assert extractor(images).shape == (5, 64)
    assert extractor(images).dtype == torch.float64
    assert torch.equal(extractor(images), metrics.RandomFeatures(3)(images))
    assert not torch.allclose(extractor(images), metrics.RandomFeatures(3, seed=1)(images))
    assert (extractor(images)[0] - extractor(images)[1]).abs().max() > 1e-3


@pytest.fixture(scope="module")
def blobs():
    """Images with structure: a bright square somewhere."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(900, 1, 16, 16, dtype=torch.uint8)
    for image, (i, j) in zip(images, torch.randint(12, (900, 2), generator=generator).tolist(), strict=True):
        image[0, i : i + 4, j : j + 4] = 255
    return ImageSet("blobs", images[:600], images[600:])


def test_real_images_score_the_floor_and_damaged_ones_score_worse(blobs):
    proxies = metrics.Proxies(blobs, 200)
    noise = torch.randint(-60, 60, (200, 1, 16, 16))
    real = proxies(blobs.train[:200])
    scores = [proxies((blobs.held_out[:200].int() + k * noise).clamp(0, 255).byte())["fd_random"] for k in (0, 1, 2, 4)]
    assert scores == sorted(scores)
    assert scores[-1] > 10 * real["fd_random_floor"]
    assert real["fd_random"] < 2 * real["fd_random_floor"]
    assert abs(real["kid_random"]) < 4 * real["kid_random_std"]


def test_the_number_of_images_is_the_floors(blobs):
    with pytest.raises(ValueError, match=r"301 images cannot be compared: .* of which there are 300"):
        metrics.Proxies(blobs, 301)
    with pytest.raises(ValueError, match="floor of 50"):
        metrics.Proxies(blobs, 50)(blobs.train[:49])


def test_solver_rmse_falls_with_nfe_to_zero(process, net):
    fine = metrics.fine_solution(net, process, 2, (1, 16, 16), seed=0, batch_size=2, to_data=True, clip_x0=False)
    errors = []
    for tau in (10, 40, 160):
        table = solvers.DDIM().table(process, schedules.Exp(tau)(1000))
        errors.append(metrics.solver_rmse(engine.sample(net, table, 4, (1, 16, 16)), fine))
    assert errors == sorted(errors, reverse=True)
    same = engine.sample(net, solvers.DDIM().table(process, range(1000)), 2, (1, 16, 16))
    assert metrics.solver_rmse(same, fine) == 0

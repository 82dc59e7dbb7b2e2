"""O-BELM: the paper's step, and the way back without a fixed point."""

import math

import pytest
import torch

from skipstone import engine, schedules, solvers
from skipstone.solvers import BELM


def test_rows_are_the_papers(process, two_peaks):
    """x_{i−1} = h_i²/h_{i+1}² α_{i−1}/α_{i+1} x_{i+1} + (h_{i+1}² − h_i²)/h_{i+1}² α_{i−1}/α_i x_i − … ε (O-BELM)."""
    steps = schedules.Linspace(8)(1000)
    times = [*steps[::-1], -1]
    alpha = [math.sqrt(process.alpha_bar(t).item()) for t in times]
    sigma = [math.sqrt(process.one_minus_alpha_bar(t).item()) for t in times]
    x = [torch.randn(2, 1, 3, 3, dtype=torch.float64)]
    r = [s / a for s, a in zip(sigma, alpha, strict=True)]
    for i, t in enumerate(times[:-1]):
        eps = two_peaks(x[i], torch.full((2,), t))
        if i == 0:
            x.append(alpha[1] * (x[0] / alpha[0] + (r[1] - r[0]) * eps))
            continue
        h, h_next = r[i] - r[i + 1], r[i - 1] - r[i]
        new = h**2 / h_next**2 * alpha[i + 1] / alpha[i - 1] * x[i - 1]
        new = new + (h_next**2 - h**2) / h_next**2 * alpha[i + 1] / alpha[i] * x[i]
        x.append(new - h * (h + h_next) / h_next * alpha[i + 1] * eps)
    ours = list(engine.trajectory(two_peaks, BELM().table(process, steps), start=x[0], dtype=torch.float64))
    for step, expected in zip(ours, x[1:], strict=True):
        torch.testing.assert_close(step.x, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [10, 20, 50])
@pytest.mark.parametrize("kind", [schedules.TimeUniform, schedules.Polynomial, schedules.Linspace])
def test_images_come_back_from_their_latents(process, two_peaks, count, kind):
    signs = torch.randint(2, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    image = (signs + 0.3 * torch.randn(signs.shape, generator=torch.Generator().manual_seed(1))).double()
    steps = kind(count)(1000)
    for to_data in (True, False):
        belm = BELM(to_data=to_data)
        up, down = belm.encode_table(process, steps), belm.return_table(process, steps)
        assert (up.nfe, down.nfe) == (count - 1 + to_data, count - 2 + to_data)
        for dtype in (torch.float64, torch.float32):
            latents, before = engine.sample_pair(two_peaks, up, image, dtype=dtype)
            back, _ = engine.sample_pair(two_peaks, down, before, latents, dtype=dtype)
            error = back.double() - image
            if dtype == torch.float64:
                assert error.abs().max() < 1e-10
            else:
                assert error.square().mean().sqrt() < 1e-5


def test_what_has_no_way_back_through_two_states_is_refused(process, two_peaks):
    with pytest.raises(ValueError, match="visit one more step"):
        BELM(to_data=False).return_table(process, (0, 999))
    with pytest.raises(ValueError, match="clip_x0"):
        BELM(clip_x0=True).return_table(process, (0, 500, 999))
    with pytest.raises(ValueError, match="one state, not two"):
        engine.sample_pair(two_peaks, solvers.DDIM().table(process, (0, 999)), torch.zeros(1, 1, 2, 2))


def test_belm_is_packed_like_any_table(process, two_peaks):
    table = BELM().table(process, schedules.Linspace(9)(1000))
    tables = [table, solvers.DDIM().table(process, (0, 999))]
    packed, _ = engine.sample_many(two_peaks, tables, 5, (1, 4, 4), batch_size=3, dtype=torch.float64)
    torch.testing.assert_close(packed, engine.sample(two_peaks, table, 5, (1, 4, 4), dtype=torch.float64))

"""engine.invert: what sampling gives, undone exactly; what cannot be undone, named."""

import pytest
import torch

from skipstone import engine, schedules
from skipstone.solvers import DDIM, AdamsBashforth, ProbabilityFlow


@pytest.fixture
def model(process):
    """ε of data whose every pixel is N(±1, 0.3²): closed form, smooth and far from linear."""

    def eps(x, t):
        alpha_bar = process.alpha_bar(t).view(-1, 1, 1, 1).to(x.dtype)
        variance = 0.09 * alpha_bar + 1 - alpha_bar
        mean = torch.tanh(alpha_bar.sqrt() * x / variance)  # the expected sign
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / variance

    return eps


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    shape = (5, 1, 4, 4)
    signs = torch.randint(2, shape, generator=generator) * 2.0 - 1
    return signs + 0.3 * torch.randn(shape, generator=generator)


@pytest.mark.parametrize(
    "solver", [DDIM(to_data=False), ProbabilityFlow(to_data=False)], ids=lambda solver: solver.name
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sampling_from_the_inversion_gives_the_data_back(process, model, data, solver, dtype):
    table = solver.table(process, schedules.Quad(30)(1000))
    x = data.to(dtype)
    tolerance = 2e-7 if dtype is torch.float32 else 1e-13
    start, rows = engine.invert(model, table, x, tolerance=tolerance)
    assert all(row.converged for row in rows), rows
    assert [row.t for row in rows] == table.t.flip(0).tolist()
    back = engine.sample(model, table, start=start, dtype=dtype)
    assert (back - x).abs().max() < 300 * tolerance
    encoded = engine.sample(model, solver.encode_table(process, schedules.Quad(30)(1000)), start=x, dtype=dtype)
    euler = engine.sample(model, table, start=encoded, dtype=dtype)
    assert (back - x).norm() < 1e-3 * (euler - x).norm()  # what the inversion is for


def test_a_row_that_is_too_coarse_is_named(process, model, data):
    table = DDIM(to_data=False).table(process, [0, 999])
    _, (row,) = engine.invert(model, table, data, most=2)
    assert not row.converged
    assert (row.t, row.p, row.evaluations) == (999, 0, 2)
    assert row.residual > 1e-3


def test_samples_do_not_mix(process, model, data):
    """Each sample has its own acceleration; only when all have converged does a row end."""
    table = DDIM(to_data=False).table(process, schedules.Quad(10)(1000))
    together, _ = engine.invert(model, table, data.double(), tolerance=1e-13)
    alone, _ = engine.invert(model, table, data[2:3].double(), tolerance=1e-13)
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "solver", [DDIM(), DDIM(eta=0.5, to_data=False), DDIM(clip_x0=True, to_data=False), AdamsBashforth(to_data=False)]
)
def test_tables_that_cannot_be_undone_are_refused(process, model, data, solver):
    with pytest.raises(ValueError, match="cannot be inverted"):
        engine.invert(model, solver.table(process, schedules.Exp(5)(1000)), data)

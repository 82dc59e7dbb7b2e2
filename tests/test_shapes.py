"""What a caller may hand to the engine: samples of any rank, numbers of numpy, and what is refused at the call."""

import inspect
import warnings

import numpy as np
import pytest
import torch

from skipstone import EDM, ForwardProcess, engine, noise, schedules, solvers

PROCESS = ForwardProcess(noise.linear())
STEPS = schedules.Exp(6)(1000)
INNER = solvers.DDIM(to_data=False).table(PROCESS, STEPS)


def model(x, t):
    return 0.9 * torch.tanh(x)  # every number by itself, so the shape of a sample changes nothing


def flat(x):
    return x.reshape(len(x), -1)


@pytest.mark.parametrize("shape", [(), (24,), (6, 4), (1, 6, 4), (2, 3, 2, 2)], ids=lambda shape: f"rank{len(shape)}")
def test_samples_have_any_rank(shape):
    table, wide = solvers.DDIM(eta=1.0).table(PROCESS, STEPS), (24,) if shape else (1,)
    tables = [table, solvers.DPMSolverPP(2).table(PROCESS, STEPS), solvers.AFS(solvers.Heun()).table(PROCESS, STEPS)]
    for each, packed in zip(tables, engine.sample_many(model, tables, 3, shape, batch_size=2), strict=True):
        x = engine.sample(model, each, 3, shape)
        assert x.shape == (3, *shape)
        torch.testing.assert_close(flat(x), engine.sample(model, each, 3, wide))
        torch.testing.assert_close(packed, x)
        *_, last = engine.trajectory(model, each, 3, shape)
        assert torch.equal(last.x, x)
        torch.testing.assert_close(engine.sample(model, each, 3, shape, grad=True), x)
        assert engine.not_finite(model, each, x) is None
    start, rows = engine.invert(model, INNER, x)
    assert start.shape == x.shape
    assert all(row.converged for row in rows)
    torch.testing.assert_close(flat(start), engine.invert(model, INNER, flat(x))[0])
    assert engine.not_finite(model, INNER, x * torch.nan).samples == [0, 1, 2]


@pytest.mark.parametrize("shape", [(24,), (6, 4), (1, 6, 4), (2, 3, 2, 2)], ids=lambda shape: f"rank{len(shape)}")
def test_an_arc_is_of_any_rank(shape):
    a, b = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    arc = engine.slerp(a, b, 3)
    assert arc.shape == (3, *shape)
    assert torch.equal(arc.flatten(1), engine.slerp(a.flatten(), b.flatten(), 3))
    torch.testing.assert_close(arc[[0, 2]], torch.stack([a, b]))
    assert engine.slerp(a, a, 2).shape == (2, *shape)


def test_a_start_agrees_with_its_shape_as_a_list_or_a_tuple():
    start = torch.ones(2, 1, 4, 4)
    for shape in ([1, 4, 4], (1, 4, 4), torch.Size([1, 4, 4]), np.array([1, 4, 4])):
        assert engine.sample(model, INNER, 2, shape, start=start).shape == start.shape
    with pytest.raises(ValueError, match="leave n and shape out"):
        engine.sample(model, INNER, 2, [1, 4, 5], start=start)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_samples_are_floats(dtype):
    for run in (engine.sample, engine.trajectory):
        with pytest.raises(ValueError, match=f"dtype={dtype} is not allowed"):
            run(model, INNER, 2, (3,), dtype=dtype)
    with pytest.raises(ValueError, match=f"dtype={dtype} is not allowed"):
        engine.sample_many(model, [INNER], 2, (3,), dtype=dtype)
    with pytest.raises(ValueError, match=f"dtype={dtype} is not allowed"):
        engine.sample_pair(model, solvers.BELM().table(PROCESS, STEPS), torch.ones(2, 3), dtype=dtype)


def test_a_trajectory_refuses_at_the_call_and_holds_no_gradients():
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        engine.trajectory(model, INNER, 0, (3,))
    with pytest.raises(ValueError, match="step_noise has shape"):
        engine.trajectory(model, INNER, 2, (3,), step_noise=torch.zeros(1))
    net = torch.nn.Linear(3, 3)
    steps = engine.trajectory(lambda x, t: net(x), INNER, start=torch.ones(2, 3, requires_grad=True))
    assert inspect.isgenerator(steps)
    assert not any(step.x.requires_grad for step in steps)


def test_numbers_of_numpy_are_numbers():
    i, f = np.int64, np.float32
    x = engine.sample(model, INNER, i(2), (i(1), i(4)), seed=i(5), batch_size=i(1))
    assert torch.equal(x, engine.sample(model, INNER, 2, (1, 4), seed=5, batch_size=1))
    for make in (schedules.Exp, schedules.Uniform, schedules.Leading, schedules.Trailing, schedules.TimeUniform):
        visited = make(i(7))(i(1000))
        assert visited == make(7)(1000)
        assert {type(step) for step in visited} <= {int, float}
    assert schedules.Polynomial(5, rho=f(2))(1000) == schedules.Polynomial(5, rho=2)(1000)
    assert schedules.Karras(5, PROCESS, rho=i(7), sigma_min=f(0.5))(1000) == schedules.Karras(5, PROCESS, 7, 0.5)(1000)
    for ours, plain in (
        (solvers.DDIM(eta=f(0.5)), solvers.DDIM(eta=0.5)),
        (solvers.UniPC(i(2)), solvers.UniPC(2)),
        (solvers.AdamsBashforth(i(3)), solvers.AdamsBashforth(3)),
        (solvers.EDICT(mix=np.float64(0.9)), solvers.EDICT(mix=0.9)),
    ):
        assert repr(ours) == repr(plain)  # in names and in files they are Python's own
        steps = [i(0), f(500.5), np.float64(999)]
        assert torch.equal(ours.table(PROCESS, steps).b, plain.table(PROCESS, [0, 500.5, 999.0]).b)
    assert solvers.reach(solvers.DDIM(), schedules.Exp, PROCESS, i(5)) == solvers.reach(
        solvers.DDIM(), schedules.Exp, PROCESS, 5
    )
    assert torch.equal(noise.linear(i(20), f(0.25), 0.5), noise.linear(20, 0.25, 0.5))
    assert torch.equal(EDM(i(20), f(0.5), i(80)).betas, EDM(20, 0.5, 80.0).betas)
    with pytest.raises(ValueError, match="eta"):
        solvers.DDIM(eta=np.bool_(True))
    with pytest.raises(ValueError, match="n="):
        engine.sample(model, INNER, np.float64(2), (3,))


@pytest.mark.parametrize("run", ["sample", "sample_many", "trajectory", "gradients", "require_noise"])
def test_a_warning_is_of_the_callers_line(run):
    table = solvers.BELM().table(PROCESS, [0, 100, 600])
    calls = {
        "sample": lambda: engine.sample(model, table, 2, (3,)),
        "sample_many": lambda: engine.sample_many(model, [table], 2, (3,)),
        "trajectory": lambda: engine.trajectory(model, table, 2, (3,)),
        "gradients": lambda: engine.sample(model, table, 2, (3,), grad=True),
        "require_noise": lambda: engine.require_noise(table),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calls[run]()
    assert [warning.filename for warning in caught] == [__file__]


def test_a_table_of_another_process_is_named_where_the_model_knows_its_own():
    class Net(torch.nn.Module):
        num_steps = 20

        def forward(self, x, t):
            return 0 * x + torch.zeros(20)[t.long()].view(-1, 1)

    short = solvers.DDIM().table(ForwardProcess(noise.cosine(20)), [0, 5, 19])
    assert engine.sample(Net(), short, 2, (3,)).shape == (2, 3)
    says = r"asks the network at t=999, and the model's process has the steps 0 \.\.\. 19"
    for run in (engine.sample, engine.trajectory):
        with pytest.raises(ValueError, match=says):
            run(Net(), INNER, 2, (3,))
    with pytest.raises(ValueError, match=says):
        engine.sample_many(Net(), [short, INNER], 2, (3,))
    with pytest.raises(ValueError, match=says):
        engine.invert(Net(), INNER, torch.ones(2, 3))

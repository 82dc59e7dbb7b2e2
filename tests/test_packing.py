"""Continuous batching: what sample_many promises beside sample."""

import pytest
import torch

from skipstone import engine, schedules, solvers
from skipstone.engine.packing import plan

SHAPE = (1, 16, 16)


@pytest.fixture(scope="module")
def tables(process):
    """Different lengths, noise, clipping, histories of different depth, and one that stops short of clean data."""
    return [
        solvers.DDIM(eta=0.0).table(process, schedules.Exp(4)(1000)),
        solvers.DDIM(eta=1.0, clip_x0=True).table(process, schedules.Uniform(77)(1000)),
        solvers.AdamsBashforth(order=3).table(process, schedules.Quad(7)(1000)),
        solvers.DPMSolverPP(order=2).table(process, schedules.LogSNR(9, process.betas)(1000)),
        solvers.DDIM(eta=0.5, to_data=False).table(process, schedules.Exp(12)(1000)),
    ]


@pytest.mark.parametrize(("lengths", "n", "slots"), [([5, 11, 21, 51] * 3, 200, 512), ([3, 8], 5, 4), ([7], 10, 3)])
def test_a_plan_runs_every_sample_once_and_wastes_little(lengths, n, slots):
    todo = plan(lengths, n, slots)
    assert sorted(zip(todo.table.tolist(), todo.sample.tolist(), strict=True)) == [
        (table, sample) for table in range(len(lengths)) for sample in range(n)
    ]
    assert (todo.end - todo.begin).tolist() == [lengths[table] for table in todo.table]
    busy = torch.zeros(todo.steps, slots, dtype=torch.int64)
    for begin, end, slot in zip(todo.begin, todo.end, todo.slot, strict=True):
        busy[begin:end, slot] += 1
    assert busy.max() == 1
    assert todo.steps <= sum(lengths) * n / slots + max(lengths)  # Graham's bound
    if n == 200:
        assert todo.steps <= 1.04 * sum(lengths) * n / slots


@pytest.mark.parametrize("slots", [1, 7, 64])
def test_every_cell_is_what_sample_gives_for_it(net, tables, slots):
    net = net.double()
    many = engine.sample_many(net, tables, 6, SHAPE, seed=3, batch_size=slots, dtype=torch.float64)
    for table, x in zip(tables, many, strict=True):
        alone = engine.sample(net, table, 6, SHAPE, seed=3, dtype=torch.float64)
        # an untrained network lets x grow to thousands
        assert (x - alone).norm() / alone.norm() < 1e-10


def test_it_takes_a_given_start_also_to_encode(net, process):
    start = torch.rand(5, *SHAPE)
    tables = [solvers.DDIM().encode_table(process, schedules.Exp(tau)(1000)) for tau in (3, 8)]
    for table, z in zip(tables, engine.sample_many(net, tables, start=start, batch_size=4), strict=True):
        torch.testing.assert_close(z, engine.sample(net, table, start=start), rtol=1e-4, atol=1e-4)


def test_the_network_sees_one_shape_as_often_as_planned(net, tables):
    seen, told = [], []
    net.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape))
    engine.sample_many(net, tables, 6, SHAPE, batch_size=8, progress=lambda *counts: told.append(counts))
    steps = plan([table.nfe for table in tables], 6, 8).steps
    assert seen == [(8, *SHAPE)] * steps
    assert told == [(i + 1, steps) for i in range(steps)]


def test_a_sample_that_diverges_touches_no_other(process):
    """The network answers NaN at a step that one table alone visits; its slots are refilled all the same."""

    def model(x, t):
        return torch.where((t == 500)[:, None, None, None], torch.nan, 0.1 * x)

    sick = solvers.AdamsBashforth(order=3).table(process, [0, 100, 200, 300, 400, 500, 999])
    well = [solver.table(process, [0, 300, 999]) for solver in (solvers.AdamsBashforth(order=3), solvers.DDIM(eta=1.0))]
    ruined, *rest = engine.sample_many(model, [sick, *well], 4, SHAPE, batch_size=4)
    assert ruined.isnan().all()
    for table, x in zip(well, rest, strict=True):
        torch.testing.assert_close(x, engine.sample(model, table, 4, SHAPE), rtol=1e-5, atol=1e-5)


def test_modes_are_restored_and_unclear_requests_refused(net, tables):
    net.train()
    engine.sample_many(net, tables, 2, SHAPE)
    assert net.training
    with pytest.raises(ValueError, match="n and shape"):
        engine.sample_many(net, tables)
    with pytest.raises(ValueError, match="give at least one table"):
        engine.sample_many(net, [], 2, SHAPE)
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        engine.sample_many(net, tables, 2, SHAPE, batch_size=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_never_waits_for_the_host(net, tables):
    net.cuda()

    def model(x, t):
        torch.cuda.set_sync_debug_mode("error")  # from the first step on, anything that waits raises
        return net(x, t)

    start = torch.randn(6, *SHAPE, device="cuda")
    try:
        many = engine.sample_many(model, tables, start=start, batch_size=8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for table, x in zip(tables, many, strict=True):
        alone = engine.sample(net, table, start=start)
        assert (x - alone).norm() / alone.norm() < 1e-4

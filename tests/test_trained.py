"""Solvers and inversion on the default network, trained on digits for a few seconds: enough for a smooth ε."""

import pytest
import torch
from hydra.utils import instantiate

from skipstone import engine, schedules, solvers
from skipstone.data import to_unit
from skipstone.evaluation import metrics
from skipstone.evaluation.fine import solve
from skipstone.training.module import DiffusionModule, Recipe

STEPS = 150
SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def digits(composed):
    return instantiate(composed("dataset=mnist5k").dataset)


@pytest.fixture(scope="module")
def trained(composed, process, digits):
    torch.manual_seed(0)
    config = composed()
    net = instantiate(config.model)
    module = DiffusionModule(net, process, Recipe(**config.training), seed=0, flip=False)
    optimizer = torch.optim.AdamW(net.parameters())
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1, (step + 1) / 20) * (1 - step / STEPS)
        optimizer.zero_grad()
        module.loss(digits.train[torch.randint(len(digits.train), (32,))], step).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return net.eval()


def test_solver_rmse_falls_with_nfe_and_with_order(trained, process):
    fine = solve(trained, process, 8, SHAPE, seed=0, batch_size=8)

    def rmse(solver, nfe):
        table = solver.table(process, schedules.Exp(nfe)(1000))
        return metrics.solver_rmse(engine.sample(trained, table, 8, SHAPE), fine).value

    ddim = [rmse(solvers.DDIM(), nfe) for nfe in (5, 10, 20, 40, 80)]
    assert ddim == sorted(ddim, reverse=True)
    assert rmse(solvers.DPMSolverPP(order=2), 10) < ddim[1]
    assert rmse(solvers.AdamsBashforth(order=2), 10) < ddim[1]


@pytest.mark.parametrize("count", [20, 50])
def test_digits_survive_inversion(trained, process, digits, count):
    table = solvers.DDIM(to_data=False).table(process, schedules.Quad(count)(1000))
    x = to_unit(digits.held_out[:8])
    start, rows = engine.invert(trained, table, x)
    assert all(row.converged for row in rows), rows
    assert (engine.sample(trained, table, start=start) - x).abs().max() < 1e-4


@pytest.mark.parametrize("batch_size", [7, 64])
def test_images_are_the_same_at_any_batch_size(trained, process, batch_size):
    table = solvers.DDIM(eta=1.0).table(process, schedules.Exp(10)(1000))
    alone = engine.sample(trained, table, 9, SHAPE, batch_size=1)
    torch.testing.assert_close(engine.sample(trained, table, 9, SHAPE, batch_size=batch_size), alone, rtol=0, atol=1e-4)


def test_cells_that_share_a_batch_are_what_each_gives_alone(trained, process):
    tables = [solvers.DDIM(eta).table(process, schedules.Exp(tau)(1000)) for tau in (5, 20) for eta in (0.0, 1.0)]
    many = engine.sample_many(trained, tables, 9, SHAPE, seed=2, batch_size=16)
    for table, x in zip(tables, many, strict=True):
        torch.testing.assert_close(x, engine.sample(trained, table, 9, SHAPE, seed=2), rtol=0, atol=1e-4)

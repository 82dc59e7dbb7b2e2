"""engine.sample(grad=True): the same samples, with gradients of everything that made them."""

import dataclasses

import pytest
import torch

from skipstone import engine, schedules, solvers

SHAPE = (1, 4, 4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(1, 1, 3, padding=1).double()

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.calls, self.modes = conv, 0, set()

        def forward(self, x, t):
            self.calls += 1
            self.modes.add(self.training)
            return torch.tanh(self.conv(x)) * (1 + t.to(x.dtype).view(-1, 1, 1, 1) / 1000)

    return Model()


def tables(process):
    karras = schedules.Karras(5, process.betas)(1000)
    return [
        solvers.DDIM(eta=0.5).table(process, (0, 300, 600, 999)),
        solvers.UniPC().table(process, karras),
        solvers.AFS(solvers.SASolver()).table(process, karras),
    ]


@pytest.mark.parametrize("which", range(3))
def test_samples_are_the_same_and_rows_are_run_twice(process, model, which):
    table = tables(process)[which]
    model.train()
    plain = engine.sample(model, table, 5, SHAPE, seed=3, batch_size=2, dtype=torch.float64)
    assert not plain.requires_grad
    model.calls, told = 0, []
    x = engine.sample(
        model, table, 5, SHAPE, seed=3, batch_size=2, dtype=torch.float64, grad=True, progress=lambda *n: told.append(n)
    )
    torch.testing.assert_close(x.detach(), plain, rtol=1e-12, atol=1e-12)
    assert model.calls == 3 * table.nfe == told[-1][0] == told[-1][1]
    x.square().sum().backward()
    assert model.calls == 2 * 3 * table.nfe
    assert (model.modes, model.training) == ({False}, True)
    assert model.conv.weight.grad.abs().max() > 0


@pytest.mark.parametrize("which", range(3))
def test_gradients_are_those_of_finite_differences(process, model, which):
    table = tables(process)[which]
    start = torch.randn(2, *SHAPE, dtype=torch.float64, requires_grad=True)
    b = table.b.clone().requires_grad_()
    c = table.c.clone().requires_grad_()

    def end(start, b, c, weight):
        model.conv.weight.data = weight
        changed = dataclasses.replace(table, b=b, c=c)
        return engine.sample(model, changed, start=start, seed=3, dtype=torch.float64, grad=True).square().sum()

    weight = model.conv.weight.data.clone()
    loss = end(start, b, c, weight)
    loss.backward()
    pairs = [(start, start.grad), (b, b.grad), (weight, model.conv.weight.grad)] + ([(c, c.grad)] if c.numel() else [])
    arguments = [start.detach(), b.detach(), c.detach(), weight]
    for value, gradient in pairs:
        direction = torch.randn_like(value.detach())
        place = next(i for i, argument in enumerate(arguments) if argument.shape == value.shape)
        both = []
        for sign in (1, -1):
            moved = list(arguments)
            moved[place] = arguments[place] + sign * 1e-6 * direction
            both.append(end(*moved).item())
        numeric = (both[0] - both[1]) / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-5, abs=1e-7 * abs(loss.item()))

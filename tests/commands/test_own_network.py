"""A network of the user's own is called with every kind of t that the run needs, before anything is trained."""

import pytest
import torch
from test_extending import built
from torch import nn

from skipstone.commands import plan, settings
from skipstone.commands.cli import sentence


class Indexed(nn.Module):
    """Takes t as an index, so whole steps alone."""

    def __init__(self, betas, **others):
        super().__init__()
        self.scale = nn.Parameter(1 - betas.float())

    def forward(self, x, t):
        return x * self.scale[t].view(-1, 1, 1, 1)


class Real(Indexed):
    def forward(self, x, t):
        assert t.is_floating_point()
        return x


class Narrow(Indexed):
    def forward(self, x, t):
        return x[:, :, 1:]


LISTED = ["schedule=custom", "schedule.timesteps=[0,.5,19]"]
REAL = [["solver=dpm_solver", "nfe=5"], ["schedule=karras", "tau=6"], LISTED]


def made(composed, tmp_path, network, *words):
    own = [f"model._target_={network.__module__}.{network.__name__}", f"paths.outputs={tmp_path}"]
    config = composed("experiment=smoke", "logger=none", *own, *words)
    settings.check(config)
    return plan.make(config, multirun=False)


@pytest.mark.parametrize("words", REAL)
def test_one_that_fails_at_real_times_is_a_sentence(words, composed, tmp_path):
    with pytest.raises(ValueError, match=r"^the network Indexed fails at t of real ") as caught:
        made(composed, tmp_path, Indexed, *words)
    assert sentence(caught.value).startswith(
        "the network Indexed fails at t of real times (torch.float64; IndexError: tensors used as indices must be long"
    )
    assert sentence(caught.value).endswith(
        ": let its forward take them, or choose a schedule and a solver of whole steps."
    )
    assert not list(tmp_path.iterdir())


def test_where_only_whole_steps_are_visited_it_need_not_take_others(composed, tmp_path):
    assert isinstance(made(composed, tmp_path, Indexed).net, Indexed)


def test_training_asks_it_at_whole_steps(composed, tmp_path):
    with pytest.raises(ValueError, match=r"^the network Real fails at t of whole steps, in which it is trained "):
        made(composed, tmp_path, Real, *REAL[1])


def test_what_it_gives_must_be_like_x(composed, tmp_path):
    said = r"^the model gave eps of shape \(2, 1, 27, 28\) for x of shape \(2, 1, 28, 28\)"
    with pytest.raises(ValueError, match=said):
        made(composed, tmp_path, Narrow)


def test_the_docs_own_takes_both_and_is_one_function_of_t():
    torch.manual_seed(0)
    plain = built("own_network.py")["Plain"](torch.linspace(1e-4, 0.02, 20), channels=1, base=4, patch=2)
    x = torch.randn(3, 1, 8, 8)
    whole, real = (plain(x, torch.tensor([0, 7, 19], dtype=dtype)) for dtype in (torch.int64, torch.float64))
    assert whole.dtype == x.dtype
    torch.testing.assert_close(whole, real)
    between = plain(x, torch.tensor([0, 7.5, 19], dtype=torch.float64))
    assert not torch.allclose(between[1], real[1])

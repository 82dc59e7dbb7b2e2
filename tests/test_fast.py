"""skipstone.fast: an opened network, placed as the commands place it."""

import logging

import pytest
import torch
from hydra.utils import instantiate

import skipstone
from skipstone import kernels
from skipstone.store.models import ModelStore

FORM = {"_target_": "skipstone.UNet", "image_size": 16, "channels": 1, "base": 16, "multipliers": [1, 2], "blocks": 1}
FORM |= {"attention": [-1]}


@pytest.fixture
def threads():
    """Two of them, and what there was afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def opened(folder, num_steps=50, **beside):
    """A stored network that was opened again; its weights are random, not the zeros of a fresh one."""
    torch.manual_seed(0)
    net = instantiate(FORM)
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    noise = {"_target_": "skipstone.noise.linear", "num_steps": num_steps}
    weights = {"dataset": {"name": "digits"}, "model": FORM, "noise": noise} | beside
    return skipstone.load(ModelStore(folder).ensure(weights, lambda _: net))[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_network_stays_as_it_is(tmp_path, caplog):
    net = opened(tmp_path)
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 40])
    before, forward = net(x, t), net.forward
    with caplog.at_level(logging.INFO):
        placed = skipstone.fast(net)
    assert placed is net
    assert placed.forward == forward
    assert placed._compiled_call_impl is None
    assert torch.equal(placed(x, t), before)
    assert caplog.messages == ["the network is sampled with cpu in 32-true, eager"]


def test_a_precision_that_is_asked_for_is_used(tmp_path):
    net = opened(tmp_path)
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 40])
    with torch.autocast("cpu", torch.bfloat16):
        expected = net(x, t)
    assert not torch.equal(expected.float(), net(x, t))
    assert torch.equal(skipstone.fast(net, device="cpu", precision="bf16-mixed")(x, t), expected)


def test_the_models_own_threads_are_used_but_never_more_than_there_are(tmp_path, threads):
    skipstone.fast(opened(tmp_path / "unknown"), device="cpu")
    assert torch.get_num_threads() == 2
    skipstone.fast(opened(tmp_path / "many", threads=64), device="cpu")
    assert torch.get_num_threads() == 2
    skipstone.fast(opened(tmp_path / "one", threads=1), device="cpu")
    assert torch.get_num_threads() == 1


def test_threads_that_are_asked_for_go_before_the_models_own(tmp_path, threads):
    skipstone.fast(opened(tmp_path, threads=64), device="cpu", threads=1)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device": "tpu"}, "device=tpu is unknown: choose auto, cpu or cuda"),
        ({"precision": "64"}, "precision=64 is not supported: choose 32-true"),
        ({"device": "cpu", "kernels": True}, "kernels=true asks for a GPU of Hopper or later"),
    ],
)
def test_what_is_not_here_is_refused(settings, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        skipstone.fast(opened(tmp_path), **settings)


def test_what_is_no_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"takes a torch.nn.Module, not tuple: the first of what load returns"):
        skipstone.fast((opened(tmp_path), None))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_it_is_what_the_commands_sample(tmp_path):
    net = opened(tmp_path, num_steps=1500)  # more than the 1000 of a network from elsewhere
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 1499])
    with torch.no_grad():
        expected = net(x, t)
        placed = skipstone.fast(net)
        got = placed(x.cuda(), t.cuda())
    assert got.device.type == "cuda"
    assert got.dtype == torch.float32
    assert (got.cpu() - expected).norm() / expected.norm() < 2e-2  # bf16
    if kernels.there():
        from skipstone.network import fused

        assert isinstance(placed, fused.Sampler)

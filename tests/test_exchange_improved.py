"""improved-diffusion's .pt: its network against a plain one, and what its shapes do not tell."""

import json
import logging

import pytest
import torch
from nichol import Nichol

import skipstone
from skipstone import ForwardProcess, engine, noise, schedules, solvers
from skipstone.exchange import adopt, read
from skipstone.store import models

SETTINGS = [
    {"attention": (16, 8), "multipliers": (1, 2, 2), "blocks": 2},
    {"scale_shift": False, "heads": 1},
    {"learned": False},
    {"channels": 1},
]


def saved(net, folder):
    path = folder / "ema_0.9999_500000.pt"
    torch.save(net.weights, path)
    return path


def inputs(net, T):
    x = torch.randn(3, net.channels, net.size, net.size, generator=torch.Generator().manual_seed(1)).double()
    return x, torch.tensor([0, T // 2, T - 1])


@pytest.mark.parametrize("settings", SETTINGS)
def test_its_shapes_tell_the_network_and_a_line_tells_the_rest(tmp_path, caplog, settings):
    net = Nichol(**settings)
    with caplog.at_level(logging.WARNING):
        model, process = skipstone.load(saved(net, tmp_path))
    cosine = net.scale_shift
    T = 4000 if cosine else 1000
    assert torch.equal(process.betas, ForwardProcess(noise.cosine(4000) if cosine else noise.linear()).betas)
    taken = f"{T} {'cosine' if cosine else 'linear'} steps, shown as t*{1000 / T:g}, {net.heads} heads and 32 pixels"
    assert taken in caplog.text
    x, t = inputs(net, T)
    with torch.no_grad():
        expected = net(x, t * (1000 / T))[:, : net.channels]
        assert (model.double()(x, t) - expected).abs().max() < 1e-6
        assert (model(x, t.double()) - expected).abs().max() < 1e-6
    assert expected.std() > 0.1


def test_a_network_of_classes_wants_a_label(tmp_path):
    net = Nichol(classes=7)
    model = skipstone.load(saved(net, tmp_path))[0].double()
    x, t = inputs(net, 4000)
    labels = torch.tensor([6, 0, 6])
    with torch.no_grad():
        assert (model(x, t, labels) - net(x, t * 0.25, labels)[:, :3]).abs().max() < 1e-6
    with pytest.raises(ValueError, match="makes images of a class: give it labels"):
        model(x, t)


def test_like_names_what_the_shapes_do_not_tell(tmp_path):
    net = Nichol(heads=2)
    target = "skipstone.network.improved.ImprovedUNet"
    model = {"_target_": target, "image_size": 32, "channels": 3, "base": 32, "multipliers": [1, 2], "blocks": 1}
    model |= {"attention": [16], "heads": 2, "time_scale": 2.0}
    betas = {"_target_": "skipstone.noise.linear", "num_steps": 500, "rescale": True}
    config = {"format": 1, "dataset": {"name": "x"}, "model": model, "noise": betas}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    ours, process = skipstone.load(saved(net, tmp_path), like=tmp_path / "config.yaml")
    x, t = inputs(net, 500)
    assert process.num_steps == 500
    with torch.no_grad():
        assert (ours.double()(x, t) - net(x, t * 2.0)[:, :3]).abs().max() < 1e-6


def test_it_is_stored_and_sampled(tmp_path):
    path = saved(Nichol(), tmp_path)
    model, process = skipstone.load(adopt(read(path), models.ModelStore(tmp_path), str(path)))
    table = solvers.DDIM().table(process, schedules.Trailing(tau=3)(process.num_steps))
    assert engine.sample(model, table, 2, (3, 32, 32)).isfinite().all()


def changed(net, **weights):
    for name, tensor in weights.items():
        if tensor is None:
            del net.weights[name.replace("__", ".")]
        else:
            net.weights[name.replace("__", ".")] = tensor
    return net


@pytest.mark.parametrize(
    ("net", "sentence"),
    [
        (lambda: Nichol(channels=6), "takes 6 channels and gives 12: networks of 1 or 3 are supported"),
        (lambda: Nichol(attention=()), r"attention at \[\]: give like="),
        (
            lambda: changed(Nichol(), input_blocks__2__0__op__weight=None),  # guided-diffusion halves in a block
            r"has an input_blocks\.2 that is neither a residual block nor halves the size",
        ),
        (lambda: changed(Nichol(), extra=torch.zeros(1)), r"fit in part: extra is left over\."),
        (lambda: changed(Nichol(), out__0__bias=None), r"fit in part: out\.0\.bias is missing\."),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, net, sentence):
    with pytest.raises(ValueError, match=sentence):
        skipstone.load(saved(net(), tmp_path))

"""Networks that are trained to give eps, v or x0, and are asked for eps wherever they are opened."""

import csv
import dataclasses

import pytest
import tiny
import torch

from skipstone import ForwardProcess, UNet, VelocityUNet, engine, noise, rng, schedules, solvers
from skipstone.network import placement
from skipstone.store import models, stored
from skipstone.training.fit import fit
from skipstone.training.module import DiffusionModule, stratified_t

BETAS = noise.linear(50, rescale=True)
FORM = dict(image_size=8, channels=1, base=8, multipliers=(1, 2), blocks=1, attention=())


@pytest.fixture
def awake():
    torch.manual_seed(0)
    net = UNet(**FORM).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def inputs():
    return torch.randn(4, 1, 8, 8), torch.tensor([0, 3, 20, 49])


def closed(predicts, output, x, t):
    """In float64, from the cumulated products themselves."""
    alpha_bar = torch.cumprod(1 - BETAS, 0)[t].view(-1, 1, 1, 1)
    output, x = output.double(), x.double()
    if predicts == "v":
        return (1 - alpha_bar).sqrt() * x + alpha_bar.sqrt() * output
    return (x - alpha_bar.sqrt() * output) / (1 - alpha_bar).sqrt() if predicts == "x0" else output


@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
def test_a_stored_network_gives_eps_of_what_it_was_trained_for(predicts, awake, tmp_path):
    config = {
        "format": 1,
        "dataset": {"name": "tiny", "fingerprint": "0", "flip": False},
        "model": {"_target_": "skipstone.UNet", **FORM, "multipliers": [1, 2], "attention": []},
        "noise": {"_target_": "skipstone.noise.linear", "num_steps": 50, "rescale": True},
        "training": {"predicts": predicts},
    }
    folder = models.ModelStore(tmp_path).ensure(config, lambda _: awake)
    (loaded, process), (x, t) = stored.load(folder), inputs()
    torch.testing.assert_close(loaded(x, t).double(), closed(predicts, awake(x, t), x, t), rtol=1e-5, atol=1e-5)
    assert (loaded.channels, loaded.image_size, loaded.num_steps) == (1, 8, 50)
    placed = placement.place(loaded, placement.alone("cpu"), 50)
    assert torch.equal(placed(x, t), loaded(x, t))
    table = solvers.DDIM(0.0).table(process, schedules.Linspace(5)(50))
    assert engine.sample(placed, table, 2, (1, 8, 8)).isfinite().all()


def test_v_of_a_plain_network_is_the_velocity_network(awake):
    """With the same weights they are one function, whichever way it is written."""
    velocity = VelocityUNet(**FORM, betas=BETAS).eval()
    velocity.load_state_dict(awake.state_dict())
    opened = stored.opened(awake, {"training": {"predicts": "v"}}, ForwardProcess(BETAS))
    x, t = inputs()
    torch.testing.assert_close(opened(x, t), velocity(x, t), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighting", ["none", "min_snr", "p2"])
@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
def test_the_error_is_of_what_is_predicted_and_a_weighting_of_the_same_error_in_x0(predicts, weighting, awake):
    """Against the formulas image by image, with the errors of the eps that the network's output stands for."""
    process, data = ForwardProcess(BETAS), tiny.images()
    recipe = dataclasses.replace(tiny.RECIPE, predicts=predicts, weighting=weighting)
    module = DiffusionModule(awake, process, recipe, 0, flip=False)
    loss = module.loss(data.train, 3).item()
    t = stratified_t(0, torch.arange(16), 16, 50, 3)
    eps = rng.normal(0, rng.Stream.TRAIN_EPS, torch.arange(16), (1, 8, 8), 3)
    x_t = process.diffuse(data.train.float() / 127.5 - 1, t, eps)
    found = closed(predicts, awake(x_t, t), x_t, t)
    errors = (found - eps).square().mean(dim=(1, 2, 3))
    alpha_bar = torch.cumprod(1 - BETAS, 0)[t]
    snr = alpha_bar / (1 - alpha_bar)
    if weighting == "none":
        errors = errors / {"eps": torch.ones_like(snr), "v": alpha_bar, "x0": snr}[predicts]
    else:  # weights of the papers, of eps
        errors = errors * (snr.clamp(max=5) / snr if weighting == "min_snr" else 1 / (1 + snr))
    assert loss == pytest.approx(errors.mean().item(), rel=1e-3)


def test_a_velocity_network_trained_on_v_is_the_plain_one_trained_on_v(awake):
    """The same gradients, because the same function has the same error in v."""
    velocity = VelocityUNet(**FORM, betas=BETAS)
    velocity.load_state_dict(awake.state_dict())
    recipe, data, found = dataclasses.replace(tiny.RECIPE, predicts="v"), tiny.images(), []
    for net in (awake, velocity):
        module = DiffusionModule(net, ForwardProcess(BETAS), recipe, 0, flip=False)
        loss = module.loss(data.train, 3)
        found.append([loss, *torch.autograd.grad(loss, list(net.parameters()))])
    for plain, own in zip(*found, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-3, atol=1e-4)
    assert stored.opened(velocity, {"training": {"predicts": "v"}}, ForwardProcess(BETAS)) is velocity


@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
def test_each_learns(predicts, tmp_path):
    recipe = dataclasses.replace(tiny.RECIPE, batch_size=16, learning_rate=3e-3, predicts=predicts)
    trainer = dict(max_steps=120, checkpoint_every_n_steps=120, val_check_interval=0.25)
    settings = placement.resolve(tiny.TRAINER | trainer)
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(20, 1, 2, 2), size=8, mode="bilinear")
    pixels = (255 * smooth).to(torch.uint8)
    data = dataclasses.replace(tiny.images(), train=pixels[:16], held_out=pixels[16:], flip=False)
    fit(UNet(**FORM), ForwardProcess(BETAS), data, recipe, settings, 0, tmp_path)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    losses = [float(row["train/loss"]) for row in rows if row.get("train/loss")]
    assert sum(losses[-20:]) / 20 < 0.75 * sum(losses[:4]) / 4  # of images that noise hides in part


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"training.predicts='score' is unknown: choose eps, v or x0"):
        dataclasses.replace(tiny.RECIPE, predicts="score")
    with pytest.raises(ValueError, match=r"training.label_dropout=1.0 must lie in \[0, 1\)"):
        dataclasses.replace(tiny.RECIPE, label_dropout=1.0)

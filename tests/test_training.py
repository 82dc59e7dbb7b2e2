import csv
import dataclasses
import itertools
import math

import lightning
import pytest
import tiny
import torch

from skipstone import ForwardProcess, UNet, kernels, noise, rng
from skipstone.data import ImageSet
from skipstone.network import placement
from skipstone.rng import Stream
from skipstone.training.batches import Batches, StepSampler, place
from skipstone.training.fit import fit
from skipstone.training.module import DiffusionModule, Recipe, stratified_t

TRAINER = {**tiny.TRAINER, "checkpoint_every_n_steps": 3, "enable_progress_bar": True}
RECIPE = tiny.RECIPE


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet("random", pixels[:16], pixels[16:], flip=True)


def train(images, folder, callbacks=(), recipe=RECIPE, dropout=0.1, **trainer):
    torch.manual_seed(1)
    net = UNet(8, 1, base=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=dropout)
    process = ForwardProcess(noise.linear(50))
    return fit(net, process, images, recipe, placement.resolve(TRAINER | trainer), 0, folder, callbacks=callbacks)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def flat(net):
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


class Spy(lightning.Callback):
    """Records raw weights after every step, and the weights and losses that validation sees."""

    def __init__(self):
        self.raw, self.validated, self.losses = [], [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.raw.append(flat(module.net))
        self.losses.append(outputs["loss"].item())

    def on_validation_epoch_end(self, trainer, module):
        self.validated.append(flat(module.net))


def test_stored_and_validated_weights_are_the_moving_average(images, tmp_path):
    """Against the recursion in float64: the first weights are forgotten at the warm-up's rate."""
    spy = Spy()
    net = train(images, tmp_path, (spy,))
    averaged = spy.raw[0].double()
    for k, raw in enumerate(spy.raw[1:], start=2):
        decay = min(0.9, (1 + k) / (10 + k))
        averaged = decay * averaged + (1 - decay) * raw.double()
        if k == 3:
            torch.testing.assert_close(spy.validated[0].double(), averaged, rtol=1e-5, atol=1e-6)
    stored = flat(net)
    torch.testing.assert_close(stored.double(), averaged, rtol=1e-5, atol=1e-6)
    assert not torch.equal(spy.raw[-1], spy.validated[-1])


def test_a_training_is_a_function_of_its_seed_whatever_was_drawn_before(images, tmp_path):
    first = train(images, tmp_path / "a")
    torch.rand(7)
    assert same(first, train(images, tmp_path / "b"))


def test_two_devices_train_what_one_trains(images, tmp_path):
    """The same images, t and eps in every step, the same validation; only the order of the sums differs."""
    one = train(images, tmp_path / "one", dropout=0.0)
    two = train(images, tmp_path / "two", dropout=0.0, devices=2)
    torch.testing.assert_close(flat(two), flat(one), rtol=0, atol=2e-5)
    curves = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("one", "two")]
    assert curves[0][0] == curves[1][0]
    for a, b in zip(*(list(csv.DictReader(lines)) for lines in curves), strict=True):
        for name in a:
            if name.startswith("val/") and a[name]:
                assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-4)


def test_mixed_precision_trains_much_the_same(images, tmp_path):
    mixed, full = train(images, tmp_path / "bf16", precision="bf16-mixed"), train(images, tmp_path / "32")
    assert all(parameter.dtype == torch.float32 for parameter in mixed.parameters())
    assert 0 < (flat(mixed) - flat(full)).norm() / flat(full).norm() < 0.01


def test_checkpoints_hold_plain_containers(images, tmp_path):
    train(images, tmp_path)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6


def test_the_validation_loss_is_told_apart_by_t(images, tmp_path):
    train(images, tmp_path)
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "val/loss", "val/loss_t/0000-0004", "lr-AdamW", "step"} <= set(header)


def steps_of(*arguments, **more):
    return [indices.tolist() for indices in StepSampler(*arguments, **more)]


def test_step_k_sees_the_same_images_whenever_it_runs():
    whole = steps_of(10, batch=4, steps=9, seed=0)
    assert steps_of(10, batch=4, steps=9, seed=0, first=5) == whole[5:]
    assert steps_of(10, batch=4, steps=9, seed=1) != whole
    shares = [steps_of(10, batch=4, steps=9, seed=0, rank=rank, ranks=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole
    order = list(itertools.chain(*whole))
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))  # epochs, laid end to end
    assert order[:10] != order[10:20]


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (3, 8), (8, 8), (5, 1)])
def test_the_order_is_the_epochs_permutations_position_by_position(size, batch):
    """A stored model's key promises its images in this order: a batch may span several epochs."""
    orders = {}
    for epoch in range(12 * batch // size + 1):
        generator = torch.Generator().manual_seed(rng.fold(3, Stream.TRAIN_ORDER, epoch))
        orders[epoch] = torch.randperm(size, generator=generator).tolist()
    positions = [[step * batch + i for i in range(batch)] for step in range(2, 12)]
    expected = [[orders[p // size][p % size] for p in step] for step in positions]
    assert steps_of(size, batch, steps=12, seed=3, first=2) == expected


def test_batches_are_gathered_whole_and_their_number_is_that_of_all_steps():
    images = torch.arange(20, dtype=torch.uint8).reshape(20, 1, 1, 1)
    batches = Batches(images, StepSampler(20, 4, 9, 0, first=7), steps=9, pinned=False)
    assert len(batches) == 9  # of which Lightning knows seven to be done
    assert [batch.flatten().tolist() for batch in batches] == steps_of(20, 4, 9, 0, first=7)


RARE = {"checkpoint_every_n_steps": 1000}


class Strict(lightning.Callback):
    """From one step on to another, waiting for the device is an error."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 5:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 20:
            torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, trainer, module, exception):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_never_waits_for_the_device(images, tmp_path):
    settings = dict(accelerator="gpu", precision="bf16-mixed", max_steps=30, log_every_n_steps=100)
    train(images, tmp_path, (Strict(),), val_check_interval=1.0, **RARE, **settings)


def test_the_host_looks_at_the_device_every_so_many_steps_only(images, tmp_path, monkeypatch):
    """A look waits for a GPU. Of 20 steps the 8th and the 16th are logged, so these and no others are looked at."""
    looks = [0]

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            looks.append(0)

    def counted(look):
        def count_and_look(tensor):
            looks[-1] += 1
            return look(tensor)

        return count_and_look

    for name in ("item", "tolist", "numpy", "__float__", "__int__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
    train(images, tmp_path, (Watch(),), max_steps=20, log_every_n_steps=8, val_check_interval=1.0, **RARE)
    assert [step for step in range(2, 20) if looks[step]] == [8, 16]
    losses = [row["step"] for row in csv.DictReader((tmp_path / "metrics.csv").open()) if row["train/loss"]]
    assert losses == ["7", "15"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_images_that_fit_lie_on_the_device_and_batches_never_wait_for_the_host(monkeypatch):
    images = torch.randint(256, (1000, 3, 8, 8), dtype=torch.uint8)
    placed = place(images, torch.device("cuda"))
    assert placed.is_cuda
    on_device = list(Batches(placed, StepSampler(1000, 128, 20, 0, device="cuda"), 20, pinned=False))
    expected = list(Batches(images, StepSampler(1000, 128, 20, 0), 20, pinned=False))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(on_device, expected, strict=True))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in Batches(placed, StepSampler(1000, 128, 20, 0, device="cuda"), 20, pinned=False):
            assert batch.is_cuda
    finally:
        torch.cuda.set_sync_debug_mode("default")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (images.nbytes, images.nbytes))
    assert place(images, torch.device("cuda")) is images


def test_a_batch_that_devices_cannot_share_is_refused(images, tmp_path):
    with pytest.raises(ValueError, match="batch_size=4 cannot be shared by 3 devices"):
        train(images, tmp_path, devices=3)
    with pytest.raises(ValueError, match="batch_size=5 cannot be shared by 2 devices"):
        StepSampler(10, batch=5, steps=1, seed=0, ranks=2)


def test_t_is_uniform_and_spread_over_the_batch():
    t = torch.stack([stratified_t(0, torch.arange(8), 8, 1000, step) for step in range(4000)])
    assert t.min() >= 0
    assert t.max() <= 999
    counts = torch.histc(t.float(), 10, 0, 1000)
    assert ((counts - 3200).abs() < 5 * math.sqrt(3200)).all()
    assert ((t[:, 0].float().mean() - 499.5).abs()) < 5 * 289 / math.sqrt(4000)  # at every position, too
    assert (torch.bincount(t[0] // 125, minlength=8) == 1).sum() >= 6  # one a stratum, up to the shift


@pytest.mark.parametrize(
    ("name", "weight"),
    [("none", lambda snr: 1), ("min_snr", lambda snr: min(snr, 5) / snr), ("p2", lambda snr: 1 / (1 + snr))],
)
def test_the_loss_is_weighted_by_the_signal_to_noise_ratio(name, weight, images):
    """Against the formulas, image by image; a network that predicts nothing has an error of eps²."""
    process = ForwardProcess(noise.linear(50))
    recipe = dataclasses.replace(RECIPE, weighting=name)
    net = UNet(8, 1, base=8, multipliers=(1, 2), blocks=1, attention=(4,))
    loss = DiffusionModule(net, process, recipe, 0, flip=False).loss(images.train, 3)
    index = torch.arange(16)
    t = stratified_t(0, index, 16, 50, 3)
    errors = rng.normal(0, Stream.TRAIN_EPS, index, (1, 8, 8), 3).double().square().mean(dim=(1, 2, 3))
    alpha_bars = torch.cumprod(1 - noise.linear(50), 0)[t].tolist()
    weights = [weight(alpha_bar / (1 - alpha_bar)) for alpha_bar in alpha_bars]
    expected = sum(w * e for w, e in zip(weights, errors.tolist(), strict=True)) / 16
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_weights_of_the_loss_are_no_part_of_the_model(images, tmp_path):
    train(images, tmp_path, recipe=dataclasses.replace(RECIPE, weighting="min_snr"), max_steps=2)
    assert not any(
        "loss_weights" in name for name in torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    )


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        (dict(accelerator="gpu"), "there is none here"),
        (dict(accelerator="tpu"), "choose auto, cpu or gpu"),
        (dict(precision="64-true"), "choose 32-true"),
        (dict(kernels=True), "kernels=true asks for a GPU of Hopper or later"),
    ],
)
def test_hardware_that_is_not_here_is_refused(monkeypatch, trainer, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=said):
        placement.resolve(TRAINER | trainer)


@pytest.mark.parametrize("there", [False, True])
def test_auto_is_decided_by_what_is_here(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(kernels, "there", lambda: there)
    resolved = placement.resolve(TRAINER | dict(accelerator="auto", precision="auto", compile="auto", kernels="auto"))
    expected = ("cuda", "bf16-mixed", True, True) if there else ("cpu", "32-true", False, False)
    assert tuple(resolved[name] for name in ("accelerator", "precision", "kernels", "compile")) == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(decay="linear"), "training.decay"),
        (dict(batch_size=0), "training.batch_size"),
        (dict(learning_rate=0.0), "training.learning_rate"),
        (dict(ema_decay=1.0), "training.ema_decay"),
        (dict(weighting="snr"), "training.weighting='snr' is unknown: choose none, min_snr or p2"),
        (dict(optimizer="sgd"), "training.optimizer='sgd' is unknown: choose adamw or muon"),
    ],
)
def test_impossible_recipes_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**{**RECIPE.__dict__, **settings})

"""Networks with classes: their labels in the network, in its training and in its key."""

import dataclasses

import pytest
import tiny
import torch
from omegaconf import OmegaConf

from skipstone import ForwardProcess, UNet, noise, rng
from skipstone.data import ImageSet
from skipstone.network import placement
from skipstone.rng import Stream
from skipstone.store.key import model_key, normal, weights_config
from skipstone.training import optimizers
from skipstone.training.fit import fit
from skipstone.training.module import DiffusionModule

FORM = dict(image_size=8, channels=1, base=8, multipliers=(1, 2), blocks=1, attention=())


def built(classes=3, wake=0.05):
    torch.manual_seed(1)
    net = UNet(**FORM, classes=classes)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(wake * torch.randn_like(parameter))
    return net


def images():
    plain = tiny.images()
    return dataclasses.replace(plain, train_labels=torch.arange(16) % 3, held_out_labels=torch.arange(4) % 3)


def inputs(n=4):
    torch.manual_seed(2)
    return torch.randn(n, 1, 8, 8), torch.tensor([0, 3, 20, 49])[:n]


def test_the_labels_embedding_is_added_to_the_times():
    """Against the network without labels, whose time embedding's last bias is moved by the label's row."""
    labelled, (x, t) = built(), inputs()
    for label in range(4):
        plain = UNet(**FORM)
        plain.load_state_dict({name: w for name, w in labelled.state_dict().items() if name != "label.weight"})
        with torch.no_grad():
            plain.time[2].bias.add_(labelled.label.weight[label])
        torch.testing.assert_close(labelled(x, t, torch.full((4,), label)), plain(x, t), rtol=1e-5, atol=1e-6)


def test_no_label_is_the_null_label_and_labels_are_per_image():
    net, (x, t) = built(), inputs()
    assert torch.equal(net(x, t), net(x, t, torch.full((4,), net.null_label)))
    mixed = net(x, t, torch.tensor([2, 0, 3, 1]))
    for k, label in enumerate((2, 0, 3, 1)):
        torch.testing.assert_close(net(x, t, torch.full((4,), label))[k], mixed[k], rtol=1e-4, atol=1e-6)


def test_first_weights_are_those_of_a_network_without_classes():
    labelled, plain = built(3, wake=0.0).state_dict(), built(None, wake=0.0).state_dict()
    assert set(labelled) - set(plain) == {"label.weight"}
    assert all(torch.equal(labelled[name], weight) for name, weight in plain.items())


def test_labels_for_a_network_without_classes_are_refused():
    x, t = inputs()
    with pytest.raises(ValueError, match=r"has no classes .*leave labels out"):
        built(0)(x, t, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"model.classes=-1 must be at least 1, or null"):
        built(-1)


def module(net, **recipe):
    process = ForwardProcess(noise.linear(50))
    return DiffusionModule(net, process, dataclasses.replace(tiny.RECIPE, **recipe), 0, flip=True)


class Asked(torch.nn.Module):
    """Keeps the labels that it was asked with."""

    classes = 3

    def __init__(self):
        super().__init__()
        self.labels = []

    def forward(self, x, t, labels):
        self.labels.append(labels)
        return torch.zeros_like(x)


def test_labels_are_dropped_per_sample_by_seed_and_step_on_any_number_of_devices():
    data, net = images(), Asked()
    trained = module(net, label_dropout=0.4)
    for step in (0, 7):
        trained.loss(data.train, step, data.train_labels)
        for rank in range(2):
            half = slice(8 * rank, 8 * rank + 8)
            trained.loss(data.train[half], step, data.train_labels[half], rank=rank, ranks=2)
        whole, *halves = net.labels[-3:]
        assert torch.equal(whole, torch.cat(halves))
        dropped = rng.uniform(0, Stream.TRAIN_LABEL, torch.arange(16), step) < 0.4
        assert torch.equal(whole, torch.where(dropped, 3, data.train_labels))
    assert not torch.equal(net.labels[0], net.labels[3])
    module(net, label_dropout=0.0).loss(data.train, 0, data.train_labels)
    assert torch.equal(net.labels[-1], data.train_labels)


def test_a_training_learns_what_the_label_tells(tmp_path):
    """Images are all black or all white, by their label; at t = T−1 nothing else tells which."""
    labels = torch.arange(16) % 2
    pixels = (255 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    data = ImageSet("flags", pixels, pixels[:4], train_labels=labels, held_out_labels=labels[:4])
    settings = placement.resolve(
        tiny.TRAINER | dict(max_steps=200, checkpoint_every_n_steps=200, val_check_interval=1.0)
    )
    recipe = dataclasses.replace(tiny.RECIPE, batch_size=16, learning_rate=5e-3, label_dropout=0.2, predicts="x0")
    net = fit(built(2, wake=0.0), ForwardProcess(noise.linear(50, rescale=True)), data, recipe, settings, 0, tmp_path)
    x, t = torch.randn(4, 1, 8, 8), torch.full((4,), 49)
    means = [net(x, t, torch.full((4,), label)).mean().item() for label in (0, 1, 2)]
    assert means[0] < -0.5
    assert means[1] > 0.5
    assert abs(means[2]) < 0.4
    assert (tmp_path / "metrics.csv").read_text().count("\n") > 1


def test_muon_leaves_labels_to_adamw():
    optimizer = optimizers.build(net := built(), dataclasses.replace(tiny.RECIPE, optimizer="muon"), fused=False)
    assert not any(p is net.label.weight for p in optimizer._matrices)
    assert any(p is net.time[0].weight for p in optimizer._matrices)


def test_keys_of_models_without_classes_stay_and_labels_are_in_those_of_others(composed):
    def key(*words, data=None, without=()):
        config = composed("paths.outputs=none", *words)
        parts = {
            name: OmegaConf.to_container(config[name], resolve=True)
            for name in ("model", "noise", "training", "trainer")
        }
        for part, name in without:
            del parts[part][name]
        labels = None if data is None else data.labels_fingerprint
        return model_key(weights_config({**parts, "seed": 0}, "tiny", "0", False, labels=labels))

    before = key(without=[("model", "classes"), ("training", "predicts"), ("training", "label_dropout")])
    assert key() == key("model.classes=0") == key("training.label_dropout=0.3") == before
    one, two = images(), dataclasses.replace(images(), train_labels=torch.arange(16) % 2)
    ten = key("model.classes=10", data=one)
    assert len({before, ten, key("model.classes=10", data=two), key("model.classes=11", data=one)}) == 4
    assert key("model.classes=10", "training.label_dropout=0.3", data=one) != ten
    assert len({before, key("training.predicts=v"), key("training.predicts=x0")}) == 3
    assert normal({"model": {"classes": None}}) == {"model": {}}

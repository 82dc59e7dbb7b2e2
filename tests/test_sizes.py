"""Every shipped network at every size that people have, as it is shipped."""

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from test_key import FIRST_RECIPE, images_of, key, resolved

from skipstone import UNet, engine, solvers
from skipstone.commands.cli import CONF
from skipstone.network.unet import Attention
from skipstone.store.models import ModelStore
from skipstone.store.stored import load

SIZES = (8, 16, 28, 32, 48, 64, 96, 100, 128, 256)
SHIPPED = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


def network(composed, name, size, *words):
    return instantiate(composed(f"model={name}", f"dataset.image_size={size}", "dataset.channels=3", *words).model)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_whole_network_takes_a_training_step_at_every_size_and_is_the_same(name, composed):
    """On meta tensors, which have shapes and no numbers: a network that is too large for a processor fits as well."""
    forms = []
    for size in SIZES:
        with torch.device("meta"):
            form = {k: v for k, v in composed(f"model={name}").model.items() if k not in ("_target_", "betas")}
            net = UNet(**form | {"image_size": size, "channels": 3})
            x, t = torch.zeros(2, 3, size, size), torch.zeros(2, dtype=torch.int64)
        forms.append({name: tensor.shape for name, tensor in net.state_dict().items()})
        eps = net(x, t)
        assert eps.shape == x.shape
        eps.sum().backward()
        torch.optim.AdamW(net.parameters()).step()
    assert all(form == forms[0] for form in forms)  # the same levels have attention


@pytest.mark.parametrize("size", [size for size in SIZES if size <= 100])  # more takes minutes
@pytest.mark.parametrize("name", SHIPPED)
def test_a_narrow_one_learns_and_samples_at_every_size(name, size, composed, process):
    net = network(composed, name, size, "model.base=8", "model.blocks=1")
    x, t = torch.randn(1, 3, size, size), torch.tensor([500])
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = torch.optim.AdamW(net.parameters())
    (net(x, t) - torch.randn_like(x)).square().mean().backward()
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
    samples = engine.sample(net.eval(), solvers.DDIM().table(process, (0, 999)), 1, (3, size, size), seed=0)
    assert samples.shape == x.shape
    assert samples.isfinite().all()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([*FIRST_RECIPE, "dataset.image_size=32"], "mnist5k-80cc7a6d17"),
        ([*FIRST_RECIPE, "dataset.image_size=30"], "mnist5k-eb72643339"),
        (["model=unet_cifar10", "dataset.image_size=32"], "mnist5k-16b6105727"),
        ([*FIRST_RECIPE, "model.attention=[7]"], "mnist5k-965aa8ecbf"),  # at 28 pixels the same levels as [7, 8]
        ([*FIRST_RECIPE, "model.attention=[]"], "mnist5k-089c0098ec"),
    ],
)
def test_models_that_named_attention_by_size_keep_their_keys(words, name):
    """As they were when it was [7, 8] and [16, 14], to the letter; at 28 pixels they are in test_key.py."""
    config = resolved(words)
    assert key(config, images_of(config)) == name


@pytest.mark.parametrize(("then", "now"), [([7, 8], [-2]), ([7, 14], [-3, -2]), ([3, 14, 5], [-1, -3])])
def test_a_stored_model_that_names_sizes_opens_with_its_levels(then, now, tmp_path):
    form = {"_target_": "skipstone.UNet", "image_size": 28, "channels": 1, "base": 8, "multipliers": [1, 1, 1]}
    form |= {"blocks": 1, "patch": 2}
    net = instantiate(form | {"attention": now})
    noise = {"_target_": "skipstone.noise.linear"}
    weights = {"dataset": {"name": "digits"}, "model": form | {"attention": then}, "noise": noise}
    opened, _ = load(ModelStore(tmp_path).ensure(weights, lambda _: net))
    for name, tensor in net.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor)


def test_another_level_is_another_key():
    keys = {key(config, images_of(config)) for config in (resolved([f"model.attention=[{i}]"]) for i in (-1, -2, -3))}
    assert len(keys) == 3


def test_what_another_network_calls_attention_is_left_alone():
    model = resolved([])["model"]
    configs = [resolved([]) | {"model": model | {"_target_": "own.Net", "attention": a}} for a in ([-2], [7, 8])]
    first, second = (key(config, images_of(config)) for config in configs)
    assert first != second


@pytest.mark.parametrize("attention", [[-3], [0], [8, 0], [-1, -5], [5]])
def test_what_names_no_level_is_refused(attention):
    with pytest.raises(ValueError, match=r"names none of .*from the bottom, -1 to -2, or \[\]"):
        UNet(16, 1, base=8, multipliers=(1, 2), attention=attention)


@pytest.mark.parametrize("attention", [[1.5], ["a"], [True]])
def test_what_is_no_integer_is_refused(attention):
    with pytest.raises(ValueError, match="attention must be a list, each entry an integer"):
        UNet(16, 1, base=8, multipliers=(1, 2), attention=attention)


def test_an_odd_size_is_refused_where_pixels_are_folded(composed):
    assert network(composed, "unet_cifar10", 33, "model.base=8").image_size == 33
    with pytest.raises(InstantiationException, match=r"image_size=33 is not divisible by model.patch=2"):
        network(composed, "unet_tiny", 33)


def test_levels_added_on_top_leave_attention_where_it_was(composed):
    def where(*words):
        net = network(composed, "unet_cifar10", 256, "model.base=8", *words)
        return [any(isinstance(module, Attention) for module in level.modules()) for level in net.down]

    assert where() == [False, True, False, False]  # of 256, 128, 64, 32
    assert where("model.multipliers=[1,1,2,2,2,2]") == [False, False, False, True, False, False]

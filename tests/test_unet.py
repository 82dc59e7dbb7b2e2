import copy

import pytest
import torch
from diffusers import UNet2DModel

from skipstone import UNet, VelocityUNet, noise

PAPER = dict(image_size=32, channels=3, base=128, multipliers=(1, 2, 2, 2), blocks=2, attention=(16,), dropout=0.1)


def copy_from_diffusers(ours, theirs):
    """Load a diffusers UNet2DModel's weights into ours, layer by layer, through a name map."""
    state = theirs.state_dict()

    def block(name, to):
        names = {"norm1": "norm1", "conv1": "conv1", "time_emb_proj": "time", "norm2": "norm2", "conv2": "conv2"}
        names |= {"conv_shortcut": "shortcut"} if f"{name}.conv_shortcut.weight" in state else {}
        for source, target in names.items():
            for part in ("weight", "bias"):
                getattr(to.get_submodule(target), part).data.copy_(state.pop(f"{name}.{source}.{part}"))

    def attention(name, to):
        for part in ("weight", "bias"):
            getattr(to.norm, part).data.copy_(state.pop(f"{name}.group_norm.{part}"))
            qkv = torch.cat([state.pop(f"{name}.to_{letter}.{part}") for letter in "qkv"])
            getattr(to.qkv, part).data.copy_(qkv.reshape(getattr(to.qkv, part).shape))
            out = getattr(to.out, part)
            out.data.copy_(state.pop(f"{name}.to_out.0.{part}").reshape(out.shape))

    def plain(name, to):
        for part in ("weight", "bias"):
            getattr(to, part).data.copy_(state.pop(f"{name}.{part}"))

    plain("conv_in", ours.conv_in)
    plain("time_embedding.linear_1", ours.time[0])
    plain("time_embedding.linear_2", ours.time[2])
    for side, levels in (("down", ours.down), ("up", ours.up)):
        for i, level in enumerate(levels):
            for j, resnet in enumerate(level.blocks):
                block(f"{side}_blocks.{i}.resnets.{j}", resnet)
                if f"{side}_blocks.{i}.attentions.{j}.to_q.weight" in state:
                    attention(f"{side}_blocks.{i}.attentions.{j}", level.attentions[j])
    for i, layer in enumerate(ours.downsamples):
        plain(f"down_blocks.{i}.downsamplers.0.conv", layer.conv)
    for i, layer in enumerate(ours.upsamples):
        plain(f"up_blocks.{i}.upsamplers.0.conv", layer.conv)
    block("mid_block.resnets.0", ours.middle1)
    attention("mid_block.attentions.0", ours.middle_attention)
    block("mid_block.resnets.1", ours.middle2)
    plain("conv_norm_out", ours.norm_out)
    plain("conv_out", ours.conv_out)
    assert not state, f"left over: {list(state)[:5]}"


def diffusers_unet(base):
    """The configuration of google/ddpm-cifar10-32, with a width of one's own."""
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=32,
        block_out_channels=(base, 2 * base, 2 * base, 2 * base),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        norm_num_groups=32,
    ).eval()


def test_the_papers_network_has_the_papers_size():
    with torch.device("meta"):
        net = UNet(**PAPER)
    assert sum(p.numel() for p in net.parameters()) == 35_746_307


def test_published_weights_fit_and_give_the_published_output():
    """Same weights, same output as the library in which the published CIFAR-10 weights live."""
    theirs = diffusers_unet(128)
    ours = UNet(**PAPER).eval()
    copy_from_diffusers(ours, theirs)
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 977])
    with torch.no_grad():
        expected, got = theirs(x, t).sample, ours(x, t)
    assert (got - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize(
    ("size", "patch", "levels"), [(28, 1, 4), (28, 2, 3), (28, 4, 2), (33, 1, 3), (30, 2, 4), (8, 1, 4)]
)
def test_sizes_that_do_not_halve_evenly_work(size, patch, levels):
    net = UNet(size, 1, base=8, multipliers=(1,) * levels, blocks=1, attention=(size // patch,), patch=patch)
    x = torch.randn(2, 1, size, size)
    assert net(x, torch.tensor([0, 999])).shape == x.shape


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(image_size=28, patch=3), "image_size=28 is not divisible by model.patch=3"),
        (dict(image_size=4, multipliers=(1, 1, 1, 1)), "image_size=4 is too small for 4 levels"),
        (dict(image_size=28, attention=(16,)), r"attention=\[16\] names none of the levels' sizes \[28, "),
        (dict(image_size=28, base=6), "base=6 must be a multiple of 4"),
    ],
)
def test_sizes_it_cannot_take_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        UNet(channels=1, **{"base": 8, "multipliers": (1, 2), **arguments})


def test_a_fresh_network_predicts_no_noise():
    net = UNet(16, 3, base=8, multipliers=(1, 2), attention=(8,))
    assert net(torch.randn(2, 3, 16, 16), torch.tensor([0, 5])).abs().max() == 0


def test_the_velocity_form_predicts_x0_as_the_network_alone_would(process):
    """ε = √(1−ᾱ) x + √ᾱ F is x0 = √ᾱ x − √(1−ᾱ) F: bounded whatever t (Salimans & Ho 2022, appendix D)."""
    torch.manual_seed(0)
    form = dict(base=8, multipliers=(1, 2), attention=(8,))
    net, alone = VelocityUNet(16, 1, **form, betas=noise.linear()), UNet(16, 1, **form)
    for parameter in net.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    alone.load_state_dict(net.state_dict())
    x, t = torch.randn(3, 1, 16, 16), torch.tensor([0, 500, 999])
    with torch.no_grad():
        eps, velocity = net(x, t), alone(x, t)
    x0 = process.predict_x0(x.double(), t, eps.double())
    signal, noise_ = (r.view(-1, 1, 1, 1) for r in (process.alpha_bar(t).sqrt(), process.one_minus_alpha_bar(t).sqrt()))
    torch.testing.assert_close(x0, signal * x - noise_ * velocity, rtol=0, atol=2e-4)
    assert not any("signal" in name or "noise" in name for name in net.state_dict())


def test_overfits_four_images(process):
    torch.manual_seed(0)
    net = UNet(8, 1, base=16, multipliers=(1, 2), blocks=1, attention=(4,))
    x0 = torch.rand(4, 1, 8, 8).round() * 2 - 1
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(300):
        index = torch.randint(4, (32,))
        t, eps = torch.randint(1000, (32,)), torch.randn(32, 1, 8, 8)
        loss = (net(process.diffuse(x0[index], t, eps), t) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.15


def test_compiles_whole_and_agrees(net):
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([1, 900])
    explained = torch._dynamo.explain(net)(x, t)
    assert explained.graph_break_count == 0
    compiled = torch.compile(copy.deepcopy(net).to(memory_format=torch.channels_last), backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, t), net(x, t))

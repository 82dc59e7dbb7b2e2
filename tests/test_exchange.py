"""Networks from elsewhere: each spelling against diffusers' own network, or one that a test writes out."""

import json
import os
import pickle
import re

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from official import Official
from safetensors.torch import load_file, save_file
from shell import ROOT

import skipstone
from skipstone import ForwardProcess, UNet, VelocityUNet, adapt, engine, noise, schedules, solvers
from skipstone.exchange import export, names, read

ARGUMENTS = {"sample_size": 16, "in_channels": 3, "out_channels": 3, "layers_per_block": 1}
ARGUMENTS |= {"block_out_channels": (128, 128), "down_block_types": ("AttnDownBlock2D", "DownBlock2D")}
ARGUMENTS |= {"up_block_types": ("UpBlock2D", "AttnUpBlock2D")}
PAPER = {
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}


@pytest.fixture(scope="module")
def theirs():
    """diffusers' network in the papers' architecture, with random weights that are nowhere zero."""
    torch.manual_seed(0)
    net = UNet2DModel(**ARGUMENTS, **PAPER).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.02 if p.ndim == 1 else p[0].numel() ** -0.5)
    return net


def inputs(n=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 16, 16, generator=generator), torch.tensor([0, 499, 999])[:n]


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_a_pipeline_of_diffusers_becomes_our_network(theirs, tmp_path, kind):
    pipeline = (DDIMPipeline if kind is DDIMScheduler else DDPMPipeline)(theirs, kind(beta_schedule="scaled_linear"))
    pipeline.save_pretrained(tmp_path)
    net, process = skipstone.load(tmp_path)
    assert type(net) is UNet
    x, t = inputs()
    with torch.no_grad():
        assert relative(net(x, t), theirs(x, t).sample) < 1e-5
    assert process.alpha_bars.allclose(pipeline.scheduler.alphas_cumprod.double(), rtol=1e-5)
    assert read(tmp_path).clip_x0 is True  # diffusers' own default


def test_a_folder_of_a_network_alone_in_float16_too(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    state = {name: tensor.half() for name, tensor in theirs.state_dict().items()}
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    net, _ = skipstone.load(str(tmp_path))
    x, t = inputs()
    with torch.no_grad():
        assert relative(net(x, t), theirs(x, t).sample) < 5e-3


def test_images_of_twenty_steps_are_those_of_diffusers_own_loop(theirs, tmp_path):
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="leading")
    DDIMPipeline(theirs, scheduler).save_pretrained(tmp_path)
    net, process = skipstone.load(tmp_path)
    x = start = inputs(2)[0]
    scheduler.set_timesteps(20)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(theirs(x, t).sample, t, x, eta=0.0).prev_sample
    table = solvers.DDIM(eta=0.0).table(process, schedules.Leading(tau=20)(process.num_steps))
    assert (engine.sample(net, table, start=start) - x).abs().max() < 1e-4 * max(1.0, float(x.abs().max()))


def test_another_architecture_of_diffusers_runs_as_it_is(tmp_path):
    torch.manual_seed(0)
    theirs = UNet2DModel(**ARGUMENTS).eval()
    scheduler = DDIMScheduler(prediction_type="sample")
    DDIMPipeline(theirs, scheduler).save_pretrained(tmp_path)
    net, process = skipstone.load(tmp_path)
    x, t = inputs()
    with torch.no_grad():
        x0 = theirs(x, t).sample
        eps = process.predict_eps(x, t, x0)
        assert relative(net(x, t), eps) < 1e-5
    assert not isinstance(net, UNet)


def small():
    torch.manual_seed(0)
    return UNet(32, 3, base=32, multipliers=(1, 2), blocks=1, attention=(16,)).eval()


@pytest.mark.parametrize("form", ["state", "list", "parallel"])
def test_an_official_checkpoint_tells_its_network(tmp_path, form):
    torch.manual_seed(0)
    theirs = Official().eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.02 if p.ndim == 1 else p[0].numel() ** -0.5)
    state = theirs.state_dict()
    raw = {name: tensor + 1 for name, tensor in state.items()}
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    saved = {"state": state, "list": [raw, {"lr": 1.0}, 3, 100, state], "parallel": [raw, {}, 3, 100, parallel]}[form]
    torch.save(saved, tmp_path / "ckpt.ckpt")
    net, process = skipstone.load(tmp_path / "ckpt.ckpt")
    x, t = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 499, 999])
    with torch.no_grad():
        assert relative(net(x, t), theirs(x, t)) < 1e-5
    assert process.betas.allclose(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


def test_the_papers_own_network_has_the_official_names():
    """On the meta device: every name and shape of its 35.75 M weights."""
    with torch.device("meta"):
        theirs = Official(32, 3, 128, (1, 2, 2, 2), 2, (16,)).state_dict()
        net = UNet(32, 3, 128, (1, 2, 2, 2), 2, (16,))
    assert sum(tensor.numel() for tensor in theirs.values()) == 35_746_307
    assert {name: tensor.shape for name, tensor in names.to_ours(theirs, net, names.official).items()} == {
        name: tensor.shape for name, tensor in net.state_dict().items()
    }


def test_weights_alone_need_a_network_that_is_like_theirs(tmp_path):
    net = small()
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"does not tell its network; its first weights are .*: give like="):
        skipstone.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("kind", [UNet, VelocityUNet])
def test_an_export_is_sampled_by_diffusers_and_comes_back_bit_for_bit(tmp_path, kind):
    process = ForwardProcess(noise.cosine())
    more = {"betas": process.betas} if kind is VelocityUNet else {}
    torch.manual_seed(0)
    net = kind(16, 3, base=128, multipliers=(1, 1), blocks=1, attention=(8,), **more).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.02 if p.ndim == 1 else p[0].numel() ** -0.5)
    export.writer("diffusers", net, process)(tmp_path)

    back, again = skipstone.load(tmp_path)
    assert type(back) is kind
    assert torch.equal(again.betas, process.betas)
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in net.state_dict().items())

    pipeline = DDIMPipeline.from_pretrained(tmp_path)
    pipeline.scheduler.set_timesteps(10)
    x = start = inputs(2)[0]
    with torch.no_grad():
        for t in pipeline.scheduler.timesteps:
            x = pipeline.scheduler.step(pipeline.unet(x, t).sample, t, x, eta=0.0).prev_sample
    table = solvers.DDIM(eta=0.0).table(process, schedules.Leading(tau=10)(process.num_steps))
    ours = engine.sample(net, table, start=start)
    assert (ours - x).abs().max() < 1e-4 * max(1.0, float(x.abs().max()))


def test_what_diffusers_cannot_be_is_refused():
    patched = UNet(32, 1, base=128, multipliers=(1, 1), blocks=1, attention=(), patch=2)
    with pytest.raises(ValueError, match=r"no patches, and this network has model.patch=2"):
        export.writer("diffusers", patched, ForwardProcess(noise.linear()))
    with pytest.raises(ValueError, match=r"one number of groups, and this network's norms"):
        export.writer("diffusers", small(), ForwardProcess(noise.linear()))


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")  # torch's, of a file that it did not write
@pytest.mark.parametrize("name", ["x.ckpt", "x.pt", "x.pth"])
def test_a_malicious_pickle_runs_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, name)
    with pytest.raises(ValueError, match=r"nothing in it is run: it names .*system\."):
        skipstone.load(name)
    (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"nothing in it is run|damaged"):
        skipstone.load(name)
    assert not (tmp_path / "ran").exists()


def test_a_malicious_file_in_a_folder_of_diffusers_runs_nothing(theirs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(Evil(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"nothing in it is run: it names .*system\."):
        skipstone.load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_pages_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "networks.md").read_text(), re.DOTALL)
    told = {}
    exec(example, told)
    assert told["x"].shape == (4, 3, 32, 32)
    assert told["x"].isfinite().all()


def spoiled(folder, theirs, part, **changes):
    DDIMPipeline(theirs, DDIMScheduler()).save_pretrained(folder)
    path = folder / part
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "betas 'sigmoid', which are not supported"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "predicts 'flow', which is not supported"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "alpha_bar = 0"),
        ("unet/config.json", {"block_out_channels": None}, "does not describe a UNet2DModel"),
        ("unet/config.json", {"block_out_channels": []}, "does not describe a UNet2DModel"),
        ("unet/config.json", {"sample_size": None}, "is of images None: square ones are supported"),
        ("unet/config.json", {"_class_name": "UNet1DModel"}, "is of a UNet1DModel, which is not supported"),
        (
            "unet/config.json",
            {"layers_per_block": 2},
            r"fit in part: down_blocks.0.resnets.1.norm1.weight is missing.* more",
        ),
    ],
)
def test_a_folder_that_is_not_known_is_named(theirs, tmp_path, part, changes, sentence):
    spoiled(tmp_path, theirs, part, **changes)
    with pytest.raises(ValueError, match=sentence):
        skipstone.load(tmp_path)


def test_adapt_makes_eps_of_whatever_a_network_predicts():
    process = ForwardProcess(noise.linear())
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([3, 200, 700, 999])
    x = process.diffuse(x0, t, eps)
    alpha_bar = process.alpha_bar(t).view(-1, 1, 1, 1)
    v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0

    def edm(noisy, sigma):
        expected = x0 + sigma.view(-1, 1, 1, 1) * eps
        assert torch.allclose(noisy, expected, rtol=1e-9)
        return x0

    class Output:
        sample = eps

    outputs = {"eps": eps, "v": v, "x0": x0}
    for predicts, output in outputs.items():
        assert torch.allclose(adapt(lambda x, t, o=output: o, predicts, process)(x, t), eps, rtol=1e-9, atol=1e-11)
    assert torch.allclose(adapt(edm, "edm", process)(x, t), eps, rtol=1e-9, atol=1e-11)
    assert torch.equal(adapt(lambda x, t: Output())(x, t), eps)
    assert torch.equal(adapt(lambda x, t: (eps, None))(x, t), eps)
    assert torch.equal(adapt(lambda x, t: torch.cat([eps, v], dim=1))(x, t), eps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_adapt_calls_a_network_in_its_own_dtype(dtype):
    net = torch.nn.Conv2d(3, 3, 1).to(dtype)
    seen = []
    model = adapt(lambda x, t: x)
    assert model(*inputs()).dtype == torch.float32

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = net

        def forward(self, x, t):
            seen.append(x.dtype)
            return self.layer(x)

    assert adapt(Net())(*inputs()).dtype == torch.float32
    assert seen == [dtype]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((3,), "net=int must be callable"),
        ((lambda x, t: x, "w"), "predicts='w' is unknown: choose eps, v, x0 or edm"),
        ((lambda x, t: x, "v"), "predicts='v' needs the process"),
    ],
)
def test_adapt_refuses(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        adapt(*arguments)


def test_a_network_of_ones_own_takes_the_weights_of_its_model(tmp_path):
    """A stored model whose config names a class from elsewhere is opened with network=."""
    from skipstone.store import stored
    from skipstone.store.key import model_key

    net = torch.nn.Conv2d(3, 3, 1)
    config = {"format": 1, "dataset": {"name": "x"}, "model": {"_target_": "mynet.Net"}}
    config |= {"noise": {"_target_": "skipstone.noise.linear"}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    stored.save_weights(net, tmp_path / "ema.safetensors", model_key(config))
    (tmp_path / "DONE").touch()
    with pytest.raises(ValueError, match="give it as network="):
        skipstone.load(tmp_path)
    other = torch.nn.Conv2d(3, 3, 1)
    loaded, _ = skipstone.load(tmp_path, network=other)
    assert loaded is other
    assert torch.equal(other.weight, load_file(tmp_path / "ema.safetensors")["weight"])

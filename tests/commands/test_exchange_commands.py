"""What a user types on networks from elsewhere, and to give one away."""

import re

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from karras import Karras, pickled
from nichol import Nichol
from safetensors.torch import save_file
from shell import python
from test_exchange import PAPER

from skipstone import UNet, engine, load, schedules, solvers
from skipstone.exchange import names

SMALL = {"sample_size": 16, "in_channels": 1, "out_channels": 1, "layers_per_block": 1}
SMALL |= {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}


@pytest.fixture(scope="module", params=["our architecture", "another"])
def pipeline(request, tmp_path_factory):
    """A pipeline of diffusers with random weights, once of the papers' architecture and once of another."""
    torch.manual_seed(0)
    ours = request.param == "our architecture"
    net = UNet2DModel(**SMALL, **PAPER, block_out_channels=(128, 128)) if ours else UNet2DModel(
        **SMALL, block_out_channels=(32, 32), norm_num_groups=8
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("theirs") / "pipeline"
    DDIMPipeline(net.eval(), DDIMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(folder)
    return folder


def test_a_pipeline_is_sampled_by_its_path_with_its_own_clipping(pipeline, tmp_path):
    where = f"paths.outputs={tmp_path}"
    done = python(
        "scripts/sample.py", f"run={pipeline}", "schedule=leading", "nfe=20", "n=3", f"out={tmp_path / 'x'}", where
    )
    assert done.returncode == 0, done.stderr
    assert "x0 is clipped to [-1, 1], as by the model's own sampler" in done.stdout
    net, process = load(pipeline)
    table = solvers.DDIM(clip_x0=True).table(process, schedules.Leading(tau=20)(1000))
    expected = engine.sample(net, table, n=3, shape=(1, 16, 16), seed=0, batch_size=3)
    assert np.abs(np.load(tmp_path / "x" / "samples.npz")["samples"] - expected.numpy()).max() < 5e-5

    (key,) = [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()]
    again = python(
        "scripts/sample.py", f"run={key}", "solver.clip_x0=false", "nfe=4", "n=1", f"out={tmp_path / 'y'}", where
    )
    assert again.returncode == 0, again.stderr
    assert "clipped" not in again.stdout


def test_its_cells_are_measured_beside_any_images(pipeline, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    from torchvision.io import write_png

    for k in range(30):
        write_png(torch.randint(0, 256, (1, 16, 16), dtype=torch.uint8), str(images / f"{k}.png"))
    done = python(
        "scripts/evaluate.py", f"run={pipeline}", "dataset=folder", f"dataset.root={images}", "dataset.image_size=16",
        "dataset.channels=1", "dataset.held_out=0.34", "evaluation.images=8", "evaluation.fine_images=1",
        "evaluation.taus=[3]", "evaluation.etas=[0.0]", "logger=none", f"paths.outputs={tmp_path / 'out'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "trained elsewhere" in done.stdout + done.stderr
    assert "solver" in done.stdout


def test_a_model_goes_to_diffusers_and_comes_back_as_itself(tmp_path):
    torch.manual_seed(0)
    net = UNet2DModel(**SMALL, **PAPER, block_out_channels=(128, 128)).eval()
    DDIMPipeline(net, DDIMScheduler(clip_sample=False, trained_betas=[0.01] * 700)).save_pretrained(tmp_path / "theirs")
    where = f"paths.outputs={tmp_path}"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "evaluation.csv").write_text(
        "cell,schedule,solver,tau,eta,nfe,images,solver_rmse,solver_rmse_std,fd_random,fd_random_std,fd_random_floor\n"
        "a,exp,ddim,5,0.0,6,16,0.25,0.01,1.5,0.1,0.75\nb,exp,ddim,5,1.0,6,16,,,2.5,0.1,0.75\n"
    )
    words = ["license=mit", "data=faces | of *one* kind", f"cells={tmp_path / 'run'}", where]
    done = python("scripts/export.py", f"run={tmp_path / 'theirs'}", f"out={tmp_path / 'out'}", *words)
    assert done.returncode == 0, done.stderr
    exported = DDIMPipeline.from_pretrained(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(exported.unet.parameters(), net.parameters(), strict=True))
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert r"- data: faces \| of \*one\* kind" in card
    assert "| schedule | solver | tau | eta | nfe | images | solver_rmse | floor | fd_random | floor |" in card
    assert "| exp | ddim | 5 | 0 | 6 | 16 | 0.25 | 0 | 1.5 | 0.75 |" in card
    assert "| exp | ddim | 5 | 1 | 6 | 16 | – | 0 | 2.5 | 0.75 |" in card

    again = python("scripts/export.py", f"run={tmp_path / 'out'}", f"out={tmp_path / 'again'}", where)
    assert again.returncode == 0, again.stderr
    key = re.compile(r"(adopted-\w+) for diffusers in")
    assert key.search(again.stdout)[1] == key.search(done.stdout)[1]


@pytest.mark.parametrize("kind", ["edm.pkl", "improved.pt"])
def test_files_of_edm_and_improved_diffusion_are_sampled_and_go_as_safetensors(tmp_path, kind):
    path, where = tmp_path / kind, f"paths.outputs={tmp_path}"
    if kind == "edm.pkl":
        pickled(Karras("ncsn++"), path)
    else:
        torch.save(Nichol().weights, path)
    sampled = python(
        "scripts/sample.py", f"run={path}", "schedule=trailing", "tau=4", "n=2", f"out={tmp_path / 'x'}", where
    )
    assert sampled.returncode == 0, sampled.stderr
    said = sampled.stdout + sampled.stderr
    assert ("does not tell its betas, heads and image size. Taken are 4000 cosine" in said) == (kind == "improved.pt")
    net, process = load(path)
    table = solvers.DDIM().table(process, schedules.Trailing(tau=4)(process.num_steps))
    expected = engine.sample(net, table, n=2, shape=(3, net.image_size, net.image_size), seed=0, batch_size=2)
    assert (
        np.abs(np.load(tmp_path / "x" / "samples.npz")["samples"] - expected.numpy()).max()
        < 1e-4 * expected.abs().max()
    )

    out = tmp_path / "out"
    exported = python("scripts/export.py", f"run={path}", "to=safetensors", f"out={out}", where)
    assert exported.returncode == 0, exported.stderr
    (folder,) = (tmp_path / "models").glob("adopted-*/config.yaml")
    again, _ = load(out / "model.safetensors", like=folder)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in net.state_dict().items())


def test_an_official_checkpoint_and_weights_alone_are_sampled_by_their_paths(tmp_path):
    torch.manual_seed(0)
    net = UNet(32, 3, base=32, multipliers=(1, 2), blocks=1, attention=(16,))
    torch.save([net.state_dict(), {}, 1, 1, names.from_ours(net, names.official)], tmp_path / "model-1.ckpt")
    where = [f"paths.outputs={tmp_path}", "schedule=trailing", "tau=3", "n=1"]
    done = python("scripts/sample.py", f"run={tmp_path / 'model-1.ckpt'}", f"out={tmp_path / 'x'}", *where)
    assert done.returncode == 0, done.stderr
    (key,) = [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()]
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    alone = [f"run={tmp_path / 'w.safetensors'}", f"like={tmp_path / 'models' / key}", f"out={tmp_path / 'y'}"]
    again = python("scripts/sample.py", *alone, *where)
    assert again.returncode == 0, again.stderr
    first, second = (np.load(tmp_path / folder / "samples.npz")["samples"] for folder in "xy")
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run={folder}/x.bin"], "x.bin is no file that is known here: .ckpt"),
        (
            ["run={folder}/x.ckpt"],
            "x.ckpt asks for more than tensors, and nothing in it is run: it is no plain state dict",
        ),
        (["run={folder}/theirs", "to=tflite"], "to=tflite is unknown: choose diffusers or safetensors"),
        (["run={folder}/theirs"], "this network is none that diffusers' UNet2DModel can be: export to=safetensors"),
        (
            ["run={folder}/theirs", "to=safetensors", "cells={folder}"],
            "must be a run's folder, with its evaluation.csv",
        ),
    ],
)
def test_what_is_refused(tmp_path, words, sentence):
    for name in ("x.bin", "x.ckpt"):
        (tmp_path / name).write_bytes(b"no weights")
    net = UNet2DModel(**SMALL, block_out_channels=(32, 32), norm_num_groups=8)
    DDIMPipeline(net, DDIMScheduler()).save_pretrained(tmp_path / "theirs")
    words = [word.format(folder=tmp_path) for word in words]
    done = python("scripts/export.py", *words, f"out={tmp_path / 'out'}", f"paths.outputs={tmp_path}")
    assert done.returncode == 1
    assert re.search(sentence, done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()

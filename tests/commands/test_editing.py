"""docs/editing.md as it is typed, `allow=`, and ONNX: all on two tiny models that nobody trained."""

import re
import shlex
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from shell import ENVIRONMENT, ROOT, python
from test_extending import EXAMPLES

from skipstone import UNet, engine, exchange, load, noise, process, schedules, solvers
from skipstone.data import to_unit
from skipstone.exchange import export
from skipstone.store import models

PAGE = (ROOT / "docs" / "editing.md").read_text()
COMMANDS = re.findall(r"^    python (scripts/sample\.py .*)$", PAGE, re.MULTILINE)
SHAPE = (1, 16, 16)
NOISE = {"_target_": "skipstone.noise.linear"}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A store with one small UNet whose weights are random, and what the page names: latents, digits, a mask."""
    room = tmp_path_factory.mktemp("room")
    torch.manual_seed(0)
    settings = {"image_size": 16, "channels": 1, "base": 8, "multipliers": [1, 2], "blocks": 1, "attention": [8]}
    net = UNet(**settings).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    found = exchange.Foreign(
        net,
        process.ForwardProcess(noise.linear()),
        "a UNet",
        {"model": {"_target_": "skipstone.UNet", **settings}, "noise": NOISE},
    )
    folder = exchange.adopt(found, models.ModelStore(room / "outputs"), "here")
    (room / "key").write_text(folder.name)
    np.save(room / "latents.npy", np.random.default_rng(0).standard_normal((8, *SHAPE), dtype=np.float32))
    (room / "digits").mkdir()
    for k in range(3):
        Image.fromarray(np.random.default_rng(k).integers(256, size=SHAPE[1:], dtype=np.uint8)).save(
            room / "digits" / f"{k}.png"
        )
    mask = np.zeros(SHAPE[1:], np.uint8)
    mask[:8] = 255
    Image.fromarray(mask).save(room / "top.png")
    return room


def typed(room, line, *more, environment=ENVIRONMENT):
    """What a command of the page writes: its samples and the sentence at the end."""
    script, *words = shlex.split(line.replace("<key>", (room / "key").read_text()))
    out = room / f"out{len(list(room.iterdir()))}"
    done = python(ROOT / script, *words, *more, f"out={out}", cwd=room, environment=environment)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def originals(room, n):
    images = [np.array(Image.open(room / "digits" / f"{k % 3}.png")) for k in range(n)]
    return to_unit(torch.from_numpy(np.stack(images))[:, None])


def test_the_pages_commands_do_what_engine_sample_does(room):
    net, ddpm = load(room / "outputs" / "models" / (room / "key").read_text())
    numbered, own, changed, painted = (typed(room, line) for line in COMMANDS)

    def steps(eta, nfe):
        return schedules.Exp(solvers.reach(solvers.DDIM(eta), schedules.Exp, ddpm, nfe))(1000)

    def same(found, x):
        samples = torch.from_numpy(np.load(found[0] / "samples.npz")["samples"])
        assert (samples - x).norm() / x.norm() < 1e-5  # an untrained network lets x grow
        return samples

    short = solvers.DDIM().table(ddpm, steps(0.0, 20))
    same(numbered, engine.sample(net, short, 64, SHAPE, first=1024, batch_size=64))
    same(own, engine.sample(net, short, start=torch.from_numpy(np.load(room / "latents.npy"))))

    images = originals(room, 8)
    weaker = solvers.DDIM().table(ddpm, [t for t in steps(0.0, 50) if t < 600])
    same(changed, engine.sample(net, weaker, start=engine.diffused(weaker, images)))
    assert f"({weaker.nfe} evaluations each)" in changed[1].replace("\n", " ")
    assert (changed[0] / "rows.png").is_file()

    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[:, :8] = True
    table = solvers.resampled(ddpm, solvers.DDIM(1.0).table(ddpm, steps(1.0, 50)), 5, jump_length=5)
    x = same(painted, engine.sample(net, table, 8, SHAPE, known=(images, mask)))
    assert torch.equal(x[:, mask], images[:, mask])
    assert f"({table.nfe} evaluations each)" in painted[1].replace("\n", " ")


def test_the_pages_python_runs(room):
    net, ddpm = load(room / "outputs" / "models" / (room / "key").read_text())
    images = originals(room, 2)
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.5
    space = dict(engine=engine, schedules=schedules, solvers=solvers, model=net, process=ddpm, images=images, mask=mask)
    for example in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(example, space)
        assert space["x"].shape == images.shape
    assert torch.equal(space["x"][:, mask], images[:, mask])


def test_sample_k_alone_is_the_same_bit_for_bit_and_images_keep_their_turns(room):
    words = "scripts/sample.py run=<key> schedule=exp nfe=5 eta=1.0 image=digits strength=0.9 batch_size=3 gif=true"
    whole, _ = typed(room, words, "n=5")
    alone, _ = typed(room, words, "n=1", "first=4", "singles=true")
    first, last = (np.load(folder / "samples.npz")["samples"] for folder in (whole, alone))
    assert np.array_equal(first[4:], last)
    assert (alone / "singles" / "00004.png").is_file()
    assert (whole / "steps.gif").is_file()


def test_a_models_own_class_is_built_where_its_module_is_allowed_and_nowhere_else(room, tmp_path, monkeypatch):
    space = {}
    (tmp_path / "own_network.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + EXAMPLES["own_network.py"])
    exec(EXAMPLES["own_network.py"], space)
    arguments = {"channels": 1, "base": 4, "image_size": 16}
    net = space["Plain"](betas=noise.linear(), **arguments)
    config = {"_target_": "own_network.Plain", "betas": NOISE, **arguments}
    folder = exchange.adopt(
        exchange.Foreign(net, process.ForwardProcess(noise.linear()), "Plain", {"model": config, "noise": NOISE}),
        models.ModelStore(room / "outputs"),
        "here",
    )
    with pytest.raises(ValueError, match=r"cannot be imported .*: name the folder of its module in PYTHONPATH"):
        load(folder, allow="own_network")
    monkeypatch.syspath_prepend(tmp_path)
    for other in (None, "own_net", "own_network.more", "torch"):
        with pytest.raises(ValueError, match=r"if you trust its code, add allow=own_network; or build"):
            load(folder, allow=other)
        assert not (tmp_path / "ran").exists()
    where = ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}:{ENVIRONMENT.get('PYTHONPATH', '')}"}
    out, _ = typed(room, f"scripts/sample.py run={folder.name} allow=own_network", "nfe=3", "n=2", environment=where)
    assert (tmp_path / "ran").exists()
    table = solvers.DDIM().table(process.ForwardProcess(noise.linear()), schedules.Exp(2)(1000))
    x = np.load(out / "samples.npz")["samples"]
    expected = engine.sample(net.eval(), table, 2, SHAPE).numpy()
    assert np.abs(x - expected).max() < 1e-4 * np.abs(expected).max()

    again, _ = load(folder, allow="own_network")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), net.parameters(), strict=True))
    assert torch.equal(load(folder, network=net)[0].layers[0].weight, net.layers[0].weight)
    monkeypatch.delitem(sys.modules, "own_network")


def test_what_is_allowed_must_be_a_network(room, tmp_path):
    """A config that asks for a function of an allowed module gets it not called."""
    net = torch.nn.Conv2d(1, 1, 1)
    config = {"_target_": "os.system", "command": f"touch {tmp_path / 'ran'}"}
    found = exchange.Foreign(net, process.ForwardProcess(noise.linear()), "none", {"model": config, "noise": NOISE})
    folder = exchange.adopt(found, models.ModelStore(tmp_path), "here")
    with pytest.raises(ValueError, match=r"os\.system is no torch\.nn\.Module, so it is not called: leave allow=os"):
        load(folder, allow="os")
    assert not (tmp_path / "ran").exists()


def test_onnx_has_the_same_eps_for_any_batch(room):
    out, _ = typed(room, "scripts/export.py run=<key> to=onnx")
    net, _ = load(room / "outputs" / "models" / (room / "key").read_text())
    network = onnxruntime.InferenceSession(out / "model.onnx")
    for n in (1, 2, 5):
        x, t = torch.randn(n, *SHAPE), torch.randint(1000, (n,))
        (eps,) = network.run(["eps"], {"x": x.numpy(), "t": t.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(eps), net(x, t), rtol=1e-5, atol=1e-5)
    assert "onnxruntime.InferenceSession" in (out / "README.md").read_text()


def test_without_onnx_a_sentence_names_the_extra(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"to=onnx needs onnx and onnxscript: pip install 'skipstone\[export\]'"):
        export.writer("onnx", net, None)

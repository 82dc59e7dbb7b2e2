"""EDM's pickles: their networks against a plain one, and that nothing in a pickle is run."""

import os
import pickle
import subprocess

import numpy as np
import pytest
import torch
from karras import Karras, Kept, edm_code, pickled
from torch.nn import functional as F

import skipstone
from skipstone import EDM, engine, schedules, solvers
from skipstone.exchange import adopt, read
from skipstone.network.song import SongUNet
from skipstone.store import models

LEVELS = torch.tensor([0, 3, 400, 999])


@pytest.fixture(scope="module", params=["ddpm++", "ncsn++"])
def net(request):
    """Its weights are what float32 keeps of them."""
    net = Karras(request.param)
    net.weights = {name: tensor.float().double() for name, tensor in net.weights.items()}
    return net


def reference_eps(net, x, t, labels=None):
    """eps of D, in EDM's own x: σ by their Eq. 5."""
    sigma = (0.002 ** (1 / 7) + t.double() / 999 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    s = sigma.view(-1, 1, 1, 1)
    x_edm = torch.sqrt(1 + s**2) * x
    return (x_edm - net.denoise(x_edm, sigma, labels)) / s


def inputs(n=4):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64), LEVELS[:n]


def test_the_networks_are_those_of_the_paper(net, tmp_path):
    pickled(net, tmp_path / "network.pkl")
    model, process = skipstone.load(tmp_path / "network.pkl")
    assert isinstance(process, EDM)
    assert not model.training
    x, t = inputs()
    with torch.no_grad():
        expected = reference_eps(net, x, t)
        assert (model.double()(x, t) - expected).abs().max() < 1e-6
        assert (model(x, t.double()) - expected).abs().max() < 1e-6
        assert (model.float()(x.float(), t) - expected).abs().max() < 1e-4
    assert expected.std() > 0.3


def test_a_label_reaches_the_network(tmp_path, caplog):
    net = Karras("ddpm++", classes=5)
    net.weights = {name: tensor.float().double() for name, tensor in net.weights.items()}
    pickled(net, tmp_path / "network.pkl")
    model = skipstone.load(tmp_path / "network.pkl")[0].double()
    x, t = inputs()
    labels = torch.tensor([4, 0, 1, 4])
    assert "makes images of 5 classes" in caplog.text
    with torch.no_grad():
        for shown in (labels, None):
            assert (model(x, t, shown) - reference_eps(net, x, t, shown)).abs().max() < 1e-6
        assert (model(x, t, labels) - model(x, t)).abs().max() > 1e-3


def test_nothing_is_lost_at_the_smallest_noise(net, tmp_path):
    """(x_EDM − D)/σ loses digits in float32 where ours does not."""
    pickled(net, tmp_path / "network.pkl")
    model = skipstone.load(tmp_path / "network.pkl")[0]
    x, t = inputs(1)
    with torch.no_grad():
        assert (model(x.float(), t) - reference_eps(net, x, t)).abs().max() < 2e-5


def test_its_folder_in_the_store_is_the_same_network(net, tmp_path):
    pickled(net, tmp_path / "network.pkl")
    folder = adopt(read(tmp_path / "network.pkl"), models.ModelStore(tmp_path), "network.pkl")
    x, t = inputs()
    (ours, process), (direct, _) = skipstone.load(folder), skipstone.load(tmp_path / "network.pkl")
    with torch.no_grad():
        assert torch.allclose(ours(x.float(), t), direct(x.float(), t), atol=1e-5)
    assert all(torch.equal(a, direct.state_dict()[name]) for name, a in ours.state_dict().items())
    table = solvers.DDIM().table(process, schedules.TimeUniform(tau=3)(process.num_steps))
    assert engine.sample(ours, table, 2, (3, 16, 16)).isfinite().all()


class Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("evil", "name"),
    [
        (Evil(os.system, "touch ran"), r"(posix|nt)\.system"),
        (Evil(eval, "open('ran', 'w')"), r"builtins\.eval"),
        (Evil(subprocess.Popen, ["touch", "ran"]), r"subprocess\.Popen"),
        (Evil(torch.load, "x.pt"), r"torch\.serialization\.load"),
        (Evil(np.load, "x.npy"), r"numpy\.load"),
    ],
)
@pytest.mark.parametrize("where", ["alone", "beside the network"])
def test_a_malicious_pickle_runs_nothing(net, tmp_path, monkeypatch, evil, name, where):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "network.pkl"
    if where == "alone":
        path.write_bytes(pickle.dumps(evil))
    else:
        pickled(net, path, evil=evil)
    with pytest.raises(ValueError, match=rf"network.pkl asks for more .* nothing in it is run: it names {name}\."):
        skipstone.load(path)
    assert not (tmp_path / "ran").exists()


def test_the_source_in_it_is_not_run(net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled(net, tmp_path / "network.pkl")
    assert b"open('ran', 'w')" in (tmp_path / "network.pkl").read_bytes()
    skipstone.load(tmp_path / "network.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "attack",
    [
        b"c__builtin__\neval\n(S'1'\ntR.",  # the old protocol has names of its own
        b"\x80\x04\x8c\x0bcollections\x8c\x17OrderedDict.__reduce__\x93.",  # an attribute of what is known
        b"\x80\x02\x82\x01.",  # an extension by number
    ],
)
def test_a_pickle_by_hand_runs_nothing(tmp_path, attack):
    (tmp_path / "x.pkl").write_bytes(attack)
    with pytest.raises(ValueError, match=r"nothing in it is run|damaged"):
        skipstone.load(tmp_path / "x.pkl")


def test_a_malicious_storage_runs_nothing(tmp_path, monkeypatch):
    """A tensor's content is a file of torch.save within the pickle."""
    monkeypatch.chdir(tmp_path)
    inner = tmp_path / "inner.pt"
    torch.save({"x": Evil(os.system, "touch ran")}, inner)
    evil = Evil(torch.storage._load_from_bytes, inner.read_bytes())
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ema": evil}))
    with pytest.raises(ValueError, match=r"damaged"):
        skipstone.load(tmp_path / "x.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "VPPrecond"}, "class VPPrecond: only EDM's own preconditioning, EDMPrecond, is supported"),
        ({"kind": "iDDPMPrecond"}, "class iDDPMPrecond: only"),
        ({"inner": "DhariwalUNet"}, r"holds DhariwalUNet within EDMPrecond: SongUNet, DDPM\+\+ and NCSN\+\+, is"),
        ({"kwargs": {"encoder_type": "skip"}}, "encoder_type=skip, which is not supported: standard and residual are"),
        ({"kwargs": {"num_heads": 4}}, "a SongUNet with num_heads, which is not supported"),
        ({"kwargs": {"num_blocks": 2}}, r"fit in part: enc.16x16_block1.norm0.weight is missing.* more"),
        ({"kwargs": {"num_blocks": "two"}}, "describes no network that can be built"),
        ({"kwargs": {"out_channels": 6}}, "takes 3 channels and gives 6: not supported"),
    ],
)
def test_what_is_not_supported_is_named(net, tmp_path, changes, sentence):
    pickled(net, tmp_path / "network.pkl", **changes)
    with pytest.raises(ValueError, match=sentence):
        skipstone.load(tmp_path / "network.pkl")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"G": 1, "D": 2}, "holds no network `ema`, as EDM's pickles do, but G, D"),
        ([1], "holds no network `ema`, as EDM's pickles do, but a list"),
        ({"loss": np.float32(3)}, "but loss"),
        ({"ema": Kept("EDMPrecond")}, "holds nothing within EDMPrecond"),
    ],
)
def test_a_pickle_of_something_else_is_named(tmp_path, content, sentence):
    with edm_code(), (tmp_path / "x.pkl").open("wb") as file:
        pickle.dump(content, file)
    with pytest.raises(ValueError, match=sentence):
        skipstone.load(tmp_path / "x.pkl")


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x04\x95"])
def test_a_damaged_one_is_named(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pkl is damaged, or no pickle: fetch it again"):
        skipstone.load(tmp_path / "x.pkl")


@pytest.mark.parametrize("deep", [1, 60])
def test_a_network_that_holds_itself_or_a_billion_layers_is_refused(tmp_path, deep):
    outer, inner = Kept("EDMPrecond"), Kept("SongUNet", _init_kwargs=Karras("ddpm++").kwargs())
    outer.model = at = inner
    for _ in range(deep):
        layer = Kept("Layer") if deep > 1 else at
        at._modules |= {"a": layer, "b": layer}
        at = layer
    with edm_code(), (tmp_path / "x.pkl").open("wb") as file:
        pickle.dump({"ema": outer}, file)
    with pytest.raises(ValueError, match=r"(describes no network that can be built|is damaged)"):
        skipstone.load(tmp_path / "x.pkl")


def test_the_filter_of_ddpm_is_the_mean_of_two_and_its_inverse_repeats():
    """What the reference calls down and up, by torch's own names for it."""
    net, (x, _) = Karras("ddpm++"), inputs()
    assert torch.allclose(net.down("a", x), F.avg_pool2d(x, 2))
    assert torch.allclose(net.up("a", x), F.interpolate(x, scale_factor=2.0))


@pytest.mark.parametrize(("kind", "millions"), [("ddpm++", 55.733891), ("ncsn++", 56.4)])
def test_cifars_networks_have_the_papers_size(kind, millions):
    """Karras et al. have 56 million weights, of which a few are shown only in training how an image was augmented."""
    ncsn = {"embedding": "fourier", "width": 2, "residual": True, "taps": (1, 3, 3, 1)} if kind == "ncsn++" else {}
    with torch.device("meta"):
        net = SongUNet(32, 3, multipliers=(2, 2, 2), **ncsn)
    count = sum(p.numel() for p in net.parameters()) + 9 * net.noise_channels
    assert count / 1e6 == pytest.approx(millions, rel=1e-9 if kind == "ddpm++" else 1e-3)

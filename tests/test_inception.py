"""Inception-V3's features, with weights of random numbers: everything of fid but its published numbers."""

import os
import sys

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from skipstone.commands import distance
from skipstone.data import ImageSet
from skipstone.evaluation import metrics
from skipstone.evaluation.metrics.distances import frechet_to


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """A file like torch-fidelity's, of random numbers that keep the size of what passes through."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is missing")
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save({}, path)

    class Blank(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            """Keep the first weights."""

    generator, net = torch.Generator().manual_seed(0), Blank("blank", ["2048"], str(path))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, generator=generator)
    torch.save(net.state_dict(), path)
    return path


def test_inception_features_are_torch_fidelitys(inception_weights):
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    images = torch.randint(256, (3, 3, 299, 299), dtype=torch.uint8)  # of a size that neither resizes
    before = torch.random.get_rng_state()
    extractor = metrics.InceptionFeatures(str(inception_weights))
    assert torch.equal(torch.random.get_rng_state(), before)
    peer = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(inception_weights))
    expected = peer(images)[0].double()
    assert expected.std(0).mean() > 1e-3
    assert torch.allclose(extractor(images), expected, rtol=1e-4, atol=1e-5)
    small = images[..., :32, :32]  # which both enlarge
    assert torch.allclose(extractor(small), peer(small)[0].double(), rtol=1e-4, atol=1e-5)
    assert extractor.name.startswith("inception2048-")
    with pytest.raises(ValueError, match=r"grey images do not go into a colour network \(inception features\)"):
        extractor(images[:, :1])


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_foreign_file_runs_no_code(inception_weights, tmp_path):
    torch.save({**torch.load(inception_weights), "more": Payload(tmp_path / "ran")}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="does not hold the weights"):
        metrics.InceptionFeatures(str(tmp_path / "foreign.pth"))
    assert not (tmp_path / "ran").exists()


def test_inception_weights_that_are_no_such_thing_are_refused(inception_weights, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"metrics\.inception=.*nowhere\.pth is not a file"):
        metrics.InceptionFeatures(str(tmp_path / "nowhere.pth"))
    other = torch.load(inception_weights)
    other["fc.bias"] = torch.zeros(7)
    for content in (other, [1, 2], {"fc.bias": torch.zeros(3)}, nn.Linear(2, 2)):
        torch.save(content, tmp_path / "foreign.pth")
        with pytest.raises(ValueError, match=r"foreign\.pth does not hold the weights of torch-fidelity's"):
            metrics.InceptionFeatures(str(tmp_path / "foreign.pth"))
    for content in (b"", b"text", inception_weights.read_bytes()[:1000]):
        (tmp_path / "damaged.pth").write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.pth does not hold the weights"):
            metrics.InceptionFeatures(str(tmp_path / "damaged.pth"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"metrics\.inception=download: .* could not be downloaded"):
        metrics.InceptionFeatures("download")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)  # how Python marks a package that cannot be imported
    with pytest.raises(ValueError, match=r"needs the package torch-fidelity: pip install 'skipstone\[fid\]'"):
        metrics.InceptionFeatures(str(inception_weights))


@pytest.mark.attack
def test_fid_to_a_published_reference_is_torch_fidelitys(inception_weights, tmp_path):
    """As scripts/distance.py computes it, of fewer images than it takes, because a CPU embeds those in minutes."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    statistics = pytest.importorskip("torch_fidelity.metric_fid").fid_statistics_to_metric
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", draw.integers(256, size=(40, 16, 16, 3), dtype=np.uint8))
    sides = OmegaConf.create({"a": str(tmp_path / "a.npz"), "b": str(tmp_path / "reference.npz")})
    images = distance.read("a", sides).images
    peer = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(inception_weights))
    features = peer(images)[0].double().numpy()
    own = {"mu": features.mean(axis=0), "sigma": np.cov(features, rowvar=False)}
    reference = {"mu": own["mu"] + features.std(axis=0), "sigma": 1.5 * own["sigma"] + np.diag(own["sigma"].diagonal())}
    np.savez(tmp_path / "reference.npz", **reference)
    b = distance.read("b", sides)
    (ours,) = frechet_to(b.mu, b.sigma, [metrics.InceptionFeatures(str(inception_weights))(images)])
    assert ours == pytest.approx(statistics(own, reference, verbose=False)["frechet_inception_distance"], rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_fid_is_there_with_inceptions_weights(inception_weights, tmp_path):
    images = torch.randint(256, (4200, 3, 16, 16), dtype=torch.uint8)
    noise = ImageSet("noise", images[:2100], images[2100:])
    proxies = metrics.Proxies(noise, 2100, outputs=tmp_path, device="cuda", inception=str(inception_weights))
    measured = proxies(noise.train)
    assert list(measured)[2:4] == ["fid", "kid_inception"]
    assert abs(measured["fid"].value) < 1e-3 * measured["fid"].floor
    assert "fid" not in proxies.at(2000).floors

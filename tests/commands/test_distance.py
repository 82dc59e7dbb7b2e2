"""scripts/distance.py, as a user calls it, against float64 written out."""

import csv
import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from shell import python

from skipstone.commands import distance
from skipstone.evaluation.metrics import RandomFeatures
from skipstone.evaluation.metrics.distances import frechet_to


def frechet(x, y):
    """Dowson & Landau 1982, by SciPy's root of the general product."""
    linalg = pytest.importorskip("scipy.linalg")
    (m, a), (n, b) = ((z.mean(0), np.cov(z, rowvar=False)) for z in (x, y))
    return ((m - n) ** 2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)


def mmd(x, y):
    """Binkowski et al. 2018, equation 4: unbiased, with (x.y / d + 1)^3."""
    xx, yy, xy = ((p @ q.T / x.shape[1] + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    return (xx.sum() - np.trace(xx)) / n / (n - 1) + (yy.sum() - np.trace(yy)) / m / (m - 1) - 2 * xy.mean()


def measured(*words):
    done = python("scripts/distance.py", *words)
    assert done.returncode == 0, done.stderr
    return done


def test_equals_float64_for_a_folder_and_what_sample_leaves(tmp_path):
    """The bytes of samples_adm.npz are read, and not the floats beside them."""
    draw = np.random.default_rng(0)
    a, b = (draw.integers(top, size=(40, 16, 16, 3), dtype=np.uint8) for top in (256, 200))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for k, image in enumerate(a):
        Image.fromarray(image).save(tmp_path / "a" / f"{k:02d}.png")
    np.savez(tmp_path / "b" / "samples_adm.npz", b)
    np.savez(tmp_path / "b" / "samples.npz", samples=np.zeros((3, 3, 16, 16), np.float32))
    done = measured(f"a={tmp_path}/a", f"b={tmp_path}/b", "metrics.features=8", f"out={tmp_path}/out")
    fd, kid = json.loads((tmp_path / "out" / "distance.json").read_text())
    x, y = (RandomFeatures(3, 8)(torch.from_numpy(z).permute(0, 3, 1, 2)).numpy() for z in (a, b))
    assert (fd["metric"], kid["metric"]) == ("fd_random", "kid_random")
    assert fd["value"] == pytest.approx(frechet(x, y), rel=1e-6)
    assert kid["value"] == pytest.approx(mmd(x, y), rel=1e-6)  # each subset is all of both sets
    assert fd["spread"] > 0
    with (tmp_path / "out" / "distance.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [fd["value"], kid["value"]]
    assert "fd_random" in done.stdout


def test_a_data_set_is_a_side_with_its_floor_and_settings(tmp_path):
    words = [f"paths.outputs={tmp_path}", "metrics.features=16", "metrics.classifier_steps=10", f"out={tmp_path}/out"]
    measured("a=mnist5k:held_out", "b=mnist5k", *words)
    rows = json.loads((tmp_path / "out" / "distance.json").read_text())
    assert [row["metric"] for row in rows] == ["fd_random", "kid_random", "fd_classifier", "kid_classifier"]
    assert all(row["value"] == pytest.approx(row["floor"]) for row in rows if row["metric"].startswith("fd"))
    assert all(np.isfinite(row["floor"]) for row in rows)


def test_a_folder_is_a_data_set_too_and_too_few_images_are_named(tmp_path):
    (tmp_path / "photos").mkdir()
    for k in range(30):
        Image.effect_noise((40, 32), 60 + k).save(tmp_path / "photos" / f"{k}.png")
    np.savez(tmp_path / "a.npz", np.zeros((9, 28, 28, 1), np.uint8))
    data = ["dataset=folder", "dataset.name=mine", f"dataset.root={tmp_path}/photos"]
    form = ["dataset.image_size=28", "dataset.channels=1", f"paths.outputs={tmp_path}"]
    done = measured(f"a={tmp_path}/a.npz", "b=folder", *data, *form)
    assert "fd_random is left out: 64 features need more images than that, and there are 9" in done.stdout
    assert "There is no floor: b holds out 3 images, and a has 9." in done.stdout
    assert "kid_random" in done.stdout


def test_a_reference_of_mu_and_sigma_gives_torch_fidelitys_fid(tmp_path):
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    draw = np.random.default_rng(0)
    x, y = (draw.normal(size=(300, 32)) * scale for scale in (1, 1.3))
    stats = [{"mu": z.mean(0), "sigma": np.cov(z, rowvar=False)} for z in (x, y)]
    peer = fid.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    np.savez(tmp_path / "reference.npz", **stats[0])
    reference = distance.read("b", OmegaConf.create({"b": str(tmp_path / "reference.npz")}))
    (ours,) = frechet_to(reference.mu, reference.sigma, [torch.from_numpy(y)])
    assert ours == pytest.approx(peer, rel=1e-3)


def test_what_to_type_for_a_model_is_the_command_as_it_was_called(monkeypatch, tmp_path):
    (tmp_path / "ema.safetensors").touch()
    config = OmegaConf.create({"a": str(tmp_path), "paths": {"outputs": str(tmp_path)}})
    with pytest.raises(ValueError, match=r"is a model: type python scripts/sample\.py run="):
        distance.read("a", config)
    monkeypatch.setenv("SKIPSTONE_CALLED", "skipstone")
    with pytest.raises(ValueError, match="is a model: type skipstone sample run="):
        distance.read("a", config)

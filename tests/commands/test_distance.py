"""scripts/distance.py, as a user calls it, against float64 written out."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from shell import python

from skipstone.evaluation.metrics import RandomFeatures
from skipstone.evaluation.metrics.distances import frechet_to


def frechet(x, y):
    """Dowson & Landau 1982, by the general product's eigenvalues."""
    (m, a), (n, b) = ((z.mean(0), torch.cov(z.T)) for z in (x, y))
    root = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    return float((m - n).square().sum() + a.trace() + b.trace() - 2 * root)


def test_equals_float64_for_a_folder_and_adms_npz(tmp_path):
    draw = np.random.default_rng(0)
    a, b = draw.integers(256, size=(40, 16, 16, 3), dtype=np.uint8), draw.integers(200, size=(50, 16, 16, 3))
    b = b.astype(np.uint8)
    (tmp_path / "a").mkdir()
    for k, image in enumerate(a):
        Image.fromarray(image).save(tmp_path / "a" / f"{k:02d}.png")
    np.savez(tmp_path / "b.npz", b)
    done = python("scripts/distance.py", tmp_path / "a", tmp_path / "b.npz", "--features=8",
                  f"--json={tmp_path / 'd.json'}", f"--csv={tmp_path / 'd.csv'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    fd, kid = json.loads((tmp_path / "d.json").read_text())
    x, y = (RandomFeatures(3, 8)(torch.from_numpy(z).permute(0, 3, 1, 2)) for z in (a, b))
    assert fd["metric"] == "fd_random"
    assert kid["metric"] == "kid_random"
    assert fd["value"] == pytest.approx(frechet(x, y), rel=1e-6)
    assert fd["spread"] > 0
    assert (tmp_path / "d.csv").read_text().startswith("metric,value,spread,floor")
    assert "fd_random" in done.stdout


def test_a_reference_of_mu_and_sigma_gives_torch_fidelitys_fid():
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    x, y = (torch.randn(300, 32, dtype=torch.float64) * s for s in (1, 1.3))
    stats = [{"mu": z.mean(0).numpy(), "sigma": torch.cov(z.T).numpy()} for z in (x, y)]
    peer = fid.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    (ours,) = frechet_to(torch.from_numpy(stats[0]["mu"]), torch.from_numpy(stats[0]["sigma"]), [y])
    assert ours == pytest.approx(peer, rel=1e-3)


def bad(tmp_path, **arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    return tmp_path / "x.npz"


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"arr_0": np.zeros((1, 28, 28, 1), np.uint8)}, "1 image is too few"),
        ({"arr_0": np.zeros((9, 8, 8, 1), np.uint8)}, "1 x 8 x 8 and of 1 x 28 x 28"),
        ({"arr_0": np.zeros((9, 28, 28, 3), np.uint8)}, "3 x 28 x 28 and of 1 x 28 x 28"),
        ({"samples": np.full((9, 1, 28, 28), 200.0, np.float32)}, "floats that are not in [-1, 1]"),
        ({"mu": np.zeros(3), "sigma": np.zeros((2, 2))}, "mu and sigma must be [d] and [d, d]"),
        (None, "holds no images"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(tmp_path, arrays, sentence):
    a = tmp_path if arrays is None else bad(tmp_path, **arrays)
    done = python("scripts/distance.py", a, "dataset=mnist5k", f"--outputs={tmp_path}")
    assert done.returncode == 1
    assert sentence in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_held_out_images_score_their_floor(tmp_path):
    done = python("scripts/distance.py", "dataset=mnist5k/held_out", "dataset=mnist5k", "--features=16",
                  f"--outputs={tmp_path}", f"--json={tmp_path / 'd.json'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "d.json").read_text())
    assert [row["metric"] for row in rows] == ["fd_random", "kid_random", "fd_classifier", "kid_classifier"]
    assert all(row["value"] == pytest.approx(row["floor"]) for row in rows)

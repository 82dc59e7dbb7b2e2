"""What a metric is: its spread, how two cells compare, its columns, and metrics of one's own."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from cells import make_grid, make_result
from hydra.utils import instantiate
from safetensors import safe_open
from safetensors.torch import save_file
from test_page import make_page
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from skipstone.data import ImageSet
from skipstone.evaluation import metrics, results
from skipstone.evaluation.metrics import Measured, Metric, jackknife
from skipstone.evaluation.metrics.metric import flatten, leading, read


def features(n, d, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + shift)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (300, 1, 12, 12), dtype=torch.uint8, generator=generator)
    return ImageSet("noise", pixels[:200], pixels[200:])


@pytest.mark.parametrize("n", [45, 256])
def test_replicates_of_frechet_distances_are_torchmetrics_without_every_twentieth_image(n):
    real, fake = features(500, 16), features(n, 16, 0.3, seed=1)
    replicates = metrics.frechet_replicates(real, fake)
    assert len(replicates) == 20
    for group, replicate in enumerate(replicates):
        identity = nn.Identity()
        identity.num_features = 16
        theirs = FrechetInceptionDistance(feature=identity, sync_on_compute=False)
        theirs.update(real, real=True)
        theirs.update(torch.stack([x for k, x in enumerate(fake) if k % 20 != group]), real=False)
        assert replicate == pytest.approx(float(theirs.compute()), rel=1e-9)


def test_replicates_of_kernel_distances_are_the_distances_without_every_twentieth_image():
    real, fake = features(60, 8), features(50, 8, 0.3, seed=1)
    replicates = metrics.kernel_replicates(real[:50], fake, subsets=1, subset_size=50)
    assert len(replicates) == 20
    a = real[:50].numpy()
    for group, replicate in enumerate(replicates):
        b = fake.numpy()[np.arange(50) % 20 != group]
        aa, bb, ab = ((x @ y.T / 8 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
        within = [(m.sum() - np.trace(m)) / (len(m) * (len(m) - 1)) for m in (aa, bb)]
        assert replicate == pytest.approx(sum(within) - 2 * ab.mean(), rel=1e-9)
    # over subsets: the mean of the replicates is near to torchmetrics' value, so the subsets are the same
    value, _ = metrics.kernel(real, fake, subsets=7, subset_size=20)
    mean = sum(metrics.kernel_replicates(real, fake, subsets=7, subset_size=20)) / 20
    assert mean == pytest.approx(value, rel=0.05)


@pytest.mark.parametrize("kind", ["frechet", "kernel"])
def test_a_spread_is_how_far_distances_of_independent_sets_lie_apart(kind):
    rng = np.random.default_rng(0)
    real = torch.from_numpy(rng.standard_normal((2000, 8)))
    values, spreads = [], []
    for _ in range(60):
        fake = torch.from_numpy(rng.standard_normal((200, 8)) * 1.2 + 0.2)
        if kind == "frechet":
            values.append(metrics.frechet(real, fake))
            spreads.append(jackknife.spread(metrics.frechet_replicates(real, fake)))
        else:
            values.append(metrics.kernel(real, fake, 20, 100)[0])
            spreads.append(jackknife.spread(metrics.kernel_replicates(real, fake, 20, 100)))
    assert np.mean(spreads) == pytest.approx(np.std(values), rel=0.25)


def test_the_spread_of_a_mean_is_its_standard_error():
    x = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    groups = torch.stack([x[k::20].mean() for k in range(20)])
    spread = jackknife.spread([float(x[some].mean()) for some in jackknife.kept(40)])
    assert spread == pytest.approx(float(groups.std() / math.sqrt(20)))
    assert jackknife.kept(3).tolist() == [[False, True, True], [True, False, True], [True, True, False]]
    assert jackknife.spread([float(x[some].mean()) for some in jackknife.kept(1)]) is None


def noisy(value, noise, lower_is_better=True):
    return Measured.of(Metric("x", lower_is_better), value, [value + each for each in noise])


def test_cells_that_share_their_noise_are_told_apart_though_each_alone_is_uncertain():
    generator = torch.Generator().manual_seed(0)
    noise, other = (torch.randn(20, generator=generator, dtype=torch.float64) * 0.01 for _ in range(2))
    a, b = noisy(0.137, noise), noisy(0.150, noise + 0.01 * other)
    apart = noisy(0.150, other)
    assert a.spread > 0.03  # more than twice their difference
    assert leading([a, b]) == [True, False]
    assert leading([a, apart]) == [True, True]
    assert leading([replace(a, replicates=()), replace(b, replicates=())]) == [True, True]  # of an earlier version
    assert leading([noisy(0.137, noise, False), noisy(0.150, noise, False), None]) == [False, True, False]
    assert leading([a, None, a.without_value()]) == [False, False, False]  # nothing to choose from


def test_what_stands_in_columns_is_read_back():
    kid = Measured(Metric("kid_random"), 0.1, floor=0.05, spread=0.01)
    fd = Measured(Metric("fd_random"), 2.0, floor=1.0, spread=0.1, limit=1.5, limit_floor=0.7)
    rmse = Measured(metrics.SOLVER_RMSE, 0.3, floor=0.0, spread=0.02, median=0.2)
    columns = flatten([rmse, fd, kid])
    assert columns == {
        "solver_rmse": 0.3, "solver_rmse_median": 0.2, "solver_rmse_std": 0.02, "fd_random": 2.0, "fd_random_std": 0.1,
        "kid_random": 0.1, "kid_random_std": 0.01, "fd_random_infinity": 1.5, "fd_random_floor": 1.0,
        "kid_random_floor": 0.05, "fd_random_infinity_floor": 0.7,
    }  # fmt: skip
    assert read({"cell": "a", **columns, "seconds": 1.0}) == {"solver_rmse": rmse, "fd_random": fd, "kid_random": kid}
    with pytest.raises(ValueError, match="must not be named my_std"):
        Metric("my_std")


def test_results_keep_replicates_and_direction_and_those_of_an_earlier_version_still_load(tmp_path):
    result = make_result()
    result.measured["x"] = replace(noisy(0.5, [0.1, 0.2, -0.3], False), floor=0.1)
    results.save([result], "some-model", "python train.py", tmp_path)
    (after,) = results.load(tmp_path)
    assert after.measured == result.measured
    assert after.row == {"model": "some-model", **result.row}
    path = next(tmp_path.iterdir())
    with safe_open(path, "pt") as file:
        told = json.loads(json.loads(file.metadata()["about"])["results"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del told[0]["measured"]
    missing = ("solver_rmse_median", "solver_rmse_std", "fd_random_std")  # columns that it did not have
    told[0]["row"] = {name: value for name, value in after.row.items() if name not in missing}
    save_file(tensors, path, {"results": json.dumps(told), "command": "python train.py"})
    (old,) = results.load(tmp_path)
    assert old.row == after.row | dict.fromkeys(missing)
    assert old.facts == after.facts


def test_images_that_are_no_bytes_are_refused(images, tmp_path):
    floats = images.train[:20].float() / 255
    proxies = metrics.Proxies(images, 20, outputs=tmp_path, features=8)
    for measure in (proxies, metrics.RandomFeatures(1), lambda x: metrics.nearest(x, images.train)):
        with pytest.raises(ValueError, match=r"must be bytes \(uint8, 0 \.\.\. 255\), not torch\.float32.*to_bytes\.$"):
            measure(floats)


class Brightness:
    lower_is_better = False

    def __call__(self, samples, real):
        return float(samples.double().mean() / real.double().mean())


def test_a_metric_of_ones_own_has_value_floor_spread_and_direction(images, tmp_path):
    proxies = metrics.Proxies(images, 40, outputs=tmp_path, random=False, own={"brightness": Brightness()})
    samples = images.train[:40]
    (found,) = proxies(samples).values()
    assert found.metric == Metric("brightness", lower_is_better=False)
    assert found.value == Brightness()(samples, images.train)
    assert found.floor == pytest.approx(1.0, rel=0.05)
    assert found.floor != found.value
    assert found.spread == pytest.approx(float((samples.double().flatten(1).mean(1)).std() / 40**0.5 / 127), rel=0.3)
    assert list(flatten([found])) == ["brightness", "brightness_std", "brightness_floor"]


@pytest.mark.parametrize(
    ("name", "compute", "said"),
    [
        ("fd_random", Brightness(), r"metrics\.own\.fd_random is not allowed: that metric is measured already"),
        ("solver_rmse", Brightness(), "is measured already"),
        ("brightness", 3, r"metrics\.own\.brightness must be a function of samples and training images"),
        ("x_floor", Brightness(), "must not be named x_floor"),
    ],
)
def test_metrics_of_ones_own_that_cannot_be_had_are_refused(images, tmp_path, name, compute, said):
    with pytest.raises(ValueError, match=said):
        metrics.Proxies(images, 40, outputs=tmp_path, features=8, own={name: compute})


@dataclass
class Power:
    """A dataclass, which OmegaConf would take for a configuration."""

    power: int = 1

    def __call__(self, samples, real):
        return float(samples.double().pow(self.power).mean())


def powered(samples, real, power):
    return Power(power)(samples, real)


def test_dataclasses_and_functions_are_metrics_of_a_configuration_too(images, tmp_path, composed):
    a, b = "+metrics.own.a", "+metrics.own.b"
    words = [f"{a}._target_=test_metric_objects.Power", f"{a}.power=2", f"{b}._target_=test_metric_objects.powered"]
    config = composed("metrics=none", *words, f"{b}._partial_=true", f"{b}.power=2").metrics
    measured = instantiate(config)(images=images, n=40, outputs=tmp_path)(images.train[:40])
    expected = float(images.train[:40].double().square().mean())
    assert {name: each.value for name, each in measured.items()} == {"a": expected, "b": expected}


def test_without_distances_nothing_is_measured_or_kept(images, tmp_path):
    proxies = metrics.Proxies(images, 40, outputs=tmp_path, random=False, classifier=False)
    assert proxies(images.train[:40]) == proxies.floors == {}
    assert not list(tmp_path.iterdir())


def test_solver_error_has_a_median_that_a_few_samples_do_not_move_and_a_spread_that_they_do():
    fine, generator = torch.zeros(40, 1, 4, 4), torch.Generator().manual_seed(0)
    near = 0.1 * torch.randn(40, 1, 4, 4, generator=generator)
    far = near.clone()
    far[3] += 2
    usual, moved = metrics.solver_rmse(near, fine), metrics.solver_rmse(far, fine)
    assert usual.median == pytest.approx(float(np.median(near.square().mean((1, 2, 3)).sqrt())), rel=1e-6)
    assert moved.median == pytest.approx(usual.median, rel=0.05)
    assert moved.value > 3 * usual.value
    assert moved.spread > 0.4 * moved.value > 10 * usual.spread
    assert metrics.solver_rmse(near[:1], fine).spread is None


def test_every_number_of_a_page_has_its_spread(tmp_path):
    page = make_page(tmp_path, make_grid()).read_text()
    assert page.count('<span class="spread">± ') == 12 * 2 + 4

"""Distances against independent float64 numpy, what the extractors give, and what the proxies promise."""

import json

import numpy as np
import pytest
import scipy.linalg
import torch

from skipstone import data, engine, schedules, solvers
from skipstone.data import ImageSet
from skipstone.evaluation import metrics
from skipstone.evaluation.fine import solve
from skipstone.evaluation.metrics.cache import real_features
from skipstone.evaluation.metrics.metric import flatten


def features(n, d, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + shift)


def test_frechet_is_numpys():
    real, fake = features(300, 16), features(200, 16, shift=0.3, seed=1)
    a, b = real.numpy(), fake.numpy()
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert metrics.frechet(real, fake) == pytest.approx(expected, rel=1e-6)
    assert abs(metrics.frechet(real, real)) < 1e-6 * np.trace(np.cov(a.T))


def test_kernel_is_numpys_and_leaves_the_generator_alone():
    real, fake = features(50, 8), features(50, 8, shift=0.3, seed=1)
    before = torch.random.get_rng_state()
    mean, spread = metrics.kernel(real, fake, subsets=3, subset_size=1000)
    assert torch.equal(torch.random.get_rng_state(), before)
    a, b = real.numpy(), fake.numpy()

    def k(x, y):
        return (x @ y.T / 8 + 1) ** 3

    def off_diagonal(m):
        return (m.sum() - np.trace(m)) / (50 * 49)

    assert mean == pytest.approx(off_diagonal(k(a, a)) + off_diagonal(k(b, b)) - 2 * k(a, b).mean(), rel=1e-6)
    assert spread == pytest.approx(0, abs=1e-9)  # a subset of everything is always the same
    assert metrics.kernel(real, fake, 5, 20) == metrics.kernel(real, fake, 5, 20)
    assert metrics.kernel(real, fake, 5, 20, seed=1) != metrics.kernel(real, fake, 5, 20)


@pytest.mark.parametrize("seed", range(4))
def test_extrapolation_comes_nearer_to_the_distance_of_two_gaussians(seed):
    rng, spread = np.random.default_rng(seed), np.linspace(0.5, 2, 16)
    real = torch.from_numpy(spread * rng.standard_normal((20_000, 16)))
    fake = torch.from_numpy(1.2 * spread * rng.standard_normal((150, 16)) + 0.2)
    truth = 16 * 0.2**2 + (0.2**2 * spread**2).sum()
    plain, limit = metrics.frechet(real, fake), metrics.extrapolated(real, fake)
    assert abs(limit - truth) < abs(plain - truth) / 2
    assert metrics.extrapolated(real, fake) == limit


def test_extrapolation_of_few_images_is_refused():
    with pytest.raises(ValueError, match=r"47 images are too few .* 16 features: at least 48 are needed"):
        metrics.extrapolated(features(100, 16), features(47, 16))
    assert np.isfinite(metrics.extrapolated(features(100, 16), features(48, 16)))


@pytest.fixture(scope="module")
def digits():
    return data.mnist5k("mnist5k", image_size=28, channels=1, held_out=500, flip=False)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def classifier(digits, outputs):
    """As Proxies trains it by default."""
    return metrics.ensure_classifier(digits, outputs)


def test_random_features_are_fixed_and_tell_images_apart():
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    before = torch.random.get_rng_state()
    extractor = metrics.RandomFeatures(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert extractor(images).shape == (5, 64)
    assert extractor(images).dtype == torch.float64
    assert torch.equal(extractor(images), metrics.RandomFeatures(3)(images))
    assert extractor.name == metrics.RandomFeatures(3).name
    assert not torch.allclose(extractor(images), metrics.RandomFeatures(3, seed=1)(images))
    assert extractor.name != metrics.RandomFeatures(3, seed=1).name
    assert (extractor(images)[0] - extractor(images)[1]).abs().max() > 1e-3


def test_features_do_not_depend_on_batches_or_autocast(classifier, digits):
    images = digits.train[:300]
    for extractor in (metrics.RandomFeatures(1), classifier):
        expected = extractor(images)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(extractor(images), expected)
        assert torch.allclose(extractor(images[256:]), expected[256:], atol=1e-5)


def test_images_of_other_channels_are_refused(classifier, digits):
    with pytest.raises(ValueError, match=r"grey images do not go into a colour network .*: set dataset\.channels=3"):
        metrics.RandomFeatures(3)(digits.train[:2])
    with pytest.raises(ValueError, match=r"colour images do not go into a grey network \(classifier features\)"):
        classifier(digits.train[:2].expand(-1, 3, -1, -1))


def test_the_classifier_knows_digits_it_never_saw(classifier, digits, outputs):
    assert classifier.accuracy > 0.97
    assert classifier(digits.held_out).std(0).sub(1).abs().max() < 0.5
    (path,) = (outputs / "classifiers").glob("mnist5k-*/classifier.json")
    assert json.loads(path.read_text()) == {"held_out_accuracy": classifier.accuracy, "steps": 400}


def test_a_classifier_is_trained_once_and_again_when_its_file_is_damaged(digits, tmp_path):
    def ensure(folder, images=digits, **settings):
        return metrics.ensure_classifier(images, folder, **({"features": 8, "steps": 5} | settings)).name

    before = torch.random.get_rng_state()
    name = ensure(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    (path,) = tmp_path.glob("classifiers/*/classifier.safetensors")
    whole, written = path.read_bytes(), path.stat().st_mtime_ns
    assert ensure(tmp_path) == name
    assert path.stat().st_mtime_ns == written
    for damaged in (b"", whole[:-100], b"not tensors at all"):
        path.write_bytes(damaged)
        assert ensure(tmp_path) == name
        assert path.read_bytes() == whole
    path.with_name("classifier.json").write_text("{")
    assert ensure(tmp_path) == name
    assert list(path.parent.parent.iterdir()) == [path.parent]
    swapped = ImageSet(
        digits.name, digits.train, digits.held_out,
        train_labels=9 - digits.train_labels, held_out_labels=9 - digits.held_out_labels,
    )  # fmt: skip
    others = {ensure(tmp_path, seed=1), ensure(tmp_path, steps=6), ensure(tmp_path, features=12)}
    assert len({name, ensure(tmp_path, swapped), *others}) == 5


@pytest.mark.parametrize("kind", ["random", "classifier"])
def test_the_kernel_distance_of_two_halves_of_the_data_is_zero(kind, classifier, digits):
    extractor = classifier if kind == "classifier" else metrics.RandomFeatures(1)
    one, two = extractor(data.pick(torch.cat([digits.train, digits.held_out]), 5000)).split(2500)

    def score(one, two):
        # An unbiased estimate from each of 25 disjoint pairs of blocks: independent of each other, so that the standard
        # error of their mean is their spread / √25. That of overlapping subsets (kid_std) would not tell.
        pairs = zip(one.split(100), two.split(100), strict=True)
        estimates = np.array([metrics.kernel(*pair, subsets=1, subset_size=100)[0] for pair in pairs])
        return estimates.mean() / (estimates.std(ddof=1) / np.sqrt(len(estimates)))

    assert abs(score(one, two)) < 3
    damaged = extractor((data.pick(digits.train, 2500).int() + 40).clamp(max=255).byte())
    assert score(one, damaged) > 10


def test_real_features_are_extracted_once_and_again_when_their_file_is_damaged(digits, tmp_path):
    extractor, calls = metrics.RandomFeatures(1), []
    extractor.register_forward_hook(lambda *_: calls.append(1))

    def get(part="held_out", n=100):
        return real_features(extractor, digits, part, n, tmp_path)

    expected = get()
    assert torch.equal(expected, extractor(data.pick(digits.held_out, 100)))
    calls.clear()
    assert torch.equal(get(), expected)
    assert calls == []
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-8])
    assert torch.equal(get(), expected)
    assert len(calls) == 1
    assert get(n=99).shape == (99, 64)
    assert not torch.equal(get("train"), expected)
    assert len(calls) == 3


@pytest.fixture(scope="module")
def blobs():
    """Images with structure: a bright square somewhere."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(900, 1, 16, 16, dtype=torch.uint8)
    for image, (i, j) in zip(images, torch.randint(12, (900, 2), generator=generator).tolist(), strict=True):
        image[0, i : i + 4, j : j + 4] = 255
    return ImageSet("blobs", images[:600], images[600:])


def test_real_images_score_the_floor_and_damaged_ones_score_worse(blobs, tmp_path):
    proxies = metrics.Proxies(blobs, 200, outputs=tmp_path)
    noise = torch.randint(-60, 60, (200, 1, 16, 16))
    real = flatten(proxies(blobs.train[:200]).values())
    damaged = [(blobs.held_out[:200].int() + k * noise).clamp(0, 255).byte() for k in (0, 1, 2, 4)]
    scores = [proxies(images)["fd_random"].value for images in damaged]
    assert scores == sorted(scores)
    assert scores[-1] > 10 * real["fd_random_floor"]
    assert real["fd_random"] < 2 * real["fd_random_floor"]
    assert abs(real["kid_random"]) < 4 * real["kid_random_std"]


def test_what_proxies_return_and_that_a_second_construction_finds_it_all(classifier, digits, outputs):
    samples = digits.held_out[:200]
    measured = metrics.Proxies(digits, 200, outputs=outputs, extrapolate=True)(samples)
    assert list(flatten(measured.values())) == [
        "fd_random", "fd_random_std", "kid_random", "kid_random_std",
        "fd_classifier", "fd_classifier_std", "kid_classifier", "kid_classifier_std",
        "fd_random_infinity", "fd_classifier_infinity",
        "fd_random_floor", "kid_random_floor", "fd_classifier_floor", "kid_classifier_floor",
        "fd_random_infinity_floor", "fd_classifier_infinity_floor",
    ]  # fmt: skip
    written = {path: path.stat().st_mtime_ns for path in outputs.rglob("*")}
    again = metrics.Proxies(digits, 200, outputs=outputs, extrapolate=True)
    assert again(samples) == measured
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("*")} == written
    few = again.at(50)
    assert list(few.floors) == ["kid_random", "kid_classifier"]
    assert list(few(samples[:50])) == ["kid_random", "kid_classifier"]
    assert (again.n, few.n, list(again(samples))) == (200, 50, list(measured))
    without = metrics.Proxies(digits, 200, outputs=outputs, classifier=False)
    assert list(without.floors) == ["fd_random", "kid_random"]
    assert without.floors["fd_random"].value == measured["fd_random"].floor


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(n=301), r"301 images cannot be compared: .* of which there are 300"),
        (dict(n=191, extrapolate=True), r"raise evaluation\.images .* lower metrics\.features\.$"),
        (dict(n=191, extrapolate=True), "191 images are too few to extrapolate .* at least 192 are needed"),
        (dict(inception="x"), r"200 images are too few .* 2048 features: at least 2049 .*leave out metrics\.inception"),
        (dict(classifier=True), r"classifier features need labels, and dataset blobs has none"),
        (dict(features=10), r"metrics\.features=10 must be a multiple of 4"),
    ],
)
def test_proxies_that_cannot_be_had_are_refused(blobs, tmp_path, settings, said):
    with pytest.raises(ValueError, match=said):
        metrics.Proxies(blobs, outputs=tmp_path, **({"n": 200} | settings))
    assert not list(tmp_path.iterdir())


def test_what_few_images_cannot_have_is_left_out_with_a_sentence(blobs, tmp_path, caplog):
    for images, n in ((blobs, 64), (ImageSet("few", blobs.train[:50], blobs.held_out), 200)):
        caplog.clear()
        proxies = metrics.Proxies(images, n, outputs=tmp_path)
        assert list(proxies(blobs.train[:n])) == ["kid_random"]
        (sentence,) = proxies.left_out
        assert sentence == caplog.messages[0]
        assert sentence.startswith("fd_random is left out: a covariance of 64 features needs more images than that")
        assert sentence.endswith(f"there are {len(images.train)} and {n}.")
    assert metrics.Proxies(blobs, 65, outputs=tmp_path).left_out == []


def test_the_number_of_images_is_the_floors(blobs, tmp_path):
    with pytest.raises(ValueError, match="floor of 100"):
        metrics.Proxies(blobs, 100, outputs=tmp_path)(blobs.train[:99])
    with pytest.raises(ValueError, match="301 images cannot be compared"):
        metrics.Proxies(blobs, 100, outputs=tmp_path).at(301)


def test_nearest_is_numpys_and_finds_planted_copies(digits):
    train, samples = digits.train[:300], digits.held_out[:20].clone()
    samples[3], samples[7] = train[250], train[0]
    indices, distances = metrics.nearest(samples, train, k=5)
    a, b = (x.numpy().reshape(len(x), -1).astype(float) / 127.5 - 1 for x in (samples, train))
    every = np.sqrt(((a[:, None] - b) ** 2).mean(-1))
    assert indices.tolist() == every.argsort(1)[:, :5].tolist()
    assert np.allclose(distances, np.sort(every)[:, :5], atol=1e-6)
    assert (indices[3, 0], indices[7, 0]) == (250, 0)
    assert distances[[3, 7], 0].tolist() == [0, 0]
    samples[5] = digits.train[4400]
    assert metrics.nearest(samples, digits.train)[0][[3, 5], 0].tolist() == [250, 4400]  # over several blocks
    with pytest.raises(ValueError, match="k=301 neighbours cannot be found among 300"):
        metrics.nearest(samples, train, k=301)
    with pytest.raises(ValueError, match=r"samples of shape \[1, 28, 27\]"):
        metrics.nearest(samples[..., :27], train)


def test_nearest_orders_copies_that_differ_in_a_pixel():
    generator = torch.Generator().manual_seed(0)
    sample = torch.randint(1, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=generator)
    train = sample.repeat(40, 1, 1, 1)
    for i in range(40):
        train[i].view(-1)[: 39 - i] -= 1
    indices, distances = metrics.nearest(sample, train, k=40)
    assert indices[0].tolist() == list(range(39, -1, -1))
    assert distances[0].numpy() == pytest.approx(np.sqrt(np.arange(40) / sample.numel()) / 127.5, rel=1e-3)


def test_memorisation_is_the_share_of_copies(digits):
    unseen = ImageSet("digits", digits.train[500:], digits.held_out)
    check = metrics.MemoryCheck(unseen)
    fresh = check(digits.train[:500])
    assert fresh.samples == pytest.approx(fresh.held_out, rel=0.05)
    assert fresh.too_near < 0.03
    copied = check(torch.cat([digits.train[:100], unseen.train[:300]]))
    assert copied.too_near == pytest.approx(0.75, abs=0.02)
    assert copied.samples == 0


def test_solver_rmse_falls_with_nfe_to_zero(process, net):
    fine = solve(net, process, 2, (1, 16, 16), seed=0, batch_size=2)
    errors = []
    for tau in (10, 40, 160):
        table = solvers.DDIM().table(process, schedules.Exp(tau)(1000))
        errors.append(metrics.solver_rmse(engine.sample(net, table, 4, (1, 16, 16)), fine).value)
    assert errors == sorted(errors, reverse=True)
    same = engine.sample(net, solvers.DPMSolverPP(order=3).table(process, range(1000)), 2, (1, 16, 16))
    assert metrics.solver_rmse(same, fine).value == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_gives_the_processors_features(classifier, digits, tmp_path):
    images = digits.held_out[:300]
    on_device = metrics.ensure_classifier(digits, tmp_path, "cuda")
    assert on_device.accuracy > 0.97
    assert metrics.ensure_classifier(digits, tmp_path, "cpu").name == on_device.name
    for extractor in (metrics.RandomFeatures(1), classifier):
        expected = extractor(images)
        with torch.autocast("cuda", torch.bfloat16):
            assert torch.allclose(extractor.to("cuda")(images), expected, atol=1e-4)
        extractor.to("cpu")
    here, there = metrics.nearest(images, digits.train, 3), metrics.nearest(images, digits.train, 3, "cuda")
    assert torch.allclose(here[1], there[1], atol=1e-6)


def test_copies_are_found_though_the_data_repeats_itself_and_though_they_are_mirrored(digits):
    repeating = ImageSet("digits", torch.cat([digits.train[:500], digits.held_out[:50]]), digits.held_out)
    assert metrics.MemoryCheck(repeating)(digits.train[:100]).too_near == 1
    for flip, found in ((True, 1.0), (False, 0.0)):
        images = ImageSet("digits", digits.train[:500], digits.held_out, flip)
        assert metrics.MemoryCheck(images)(digits.train[:100].flip(-1)).too_near == pytest.approx(found, abs=0.05)

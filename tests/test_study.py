"""The study of proxies: damage is graded, and what is said of a series is what its numbers are."""

from dataclasses import replace

import pytest
import torch
from cells import make_result

from skipstone.data import ImageSet, to_unit
from skipstone.evaluation.metrics import Proxies
from skipstone.studies.proxies import study
from skipstone.studies.proxies.corruptions import CORRUPTIONS
from skipstone.studies.proxies.study import SEEN, Finding, Floors


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (300, 1, 12, 12), dtype=torch.uint8, generator=generator)
    labels = torch.arange(300) % 10
    return ImageSet("squares", pixels[:100], pixels[100:], train_labels=labels[:100], held_out_labels=labels[100:])


def damaged(name, images, level, n=20):
    (corruption,) = (kind for kind in CORRUPTIONS if kind.name == name)
    return corruption.at(images, n, level, 7)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda kind: kind.name)
def test_level_0_is_the_images_themselves_and_every_level_a_function_of_the_seed(images, corruption):
    assert corruption.levels[0] == 0
    assert list(corruption.levels) == sorted(corruption.levels)
    real = {tuple(image.flatten().tolist()) for image in images.held_out}
    assert {tuple(image.flatten().tolist()) for image in corruption.at(images, 20, 0, 7)} <= real
    for level in corruption.levels:
        x = corruption.at(images, 20, level, 7)
        assert x.shape == (20, 1, 12, 12)
        assert torch.equal(x, corruption.at(images, 20, level, 7))


def test_noise_has_the_deviation_that_it_says(images):
    grey = ImageSet("grey", images.train, torch.full((50, 1, 64, 64), 128, dtype=torch.uint8))
    assert to_unit(damaged("noise", grey, 0.1)).std() == pytest.approx(0.1, rel=0.02)


def test_blur_keeps_the_mean_and_lowers_the_contrast(images):
    clear, blurred = (to_unit(damaged("blur", images, level)) for level in (0, 1.2))
    assert blurred.mean() == pytest.approx(float(clear.mean()), abs=0.02)
    assert blurred.std() < clear.std() / 2


def test_dropped_classes_repeats_and_copies_are_what_they_say(images):
    def origin(x, among):
        return [int((among == image).flatten(1).all(dim=1).nonzero()[0, 0]) for image in x]

    kept = images.held_out_labels[origin(damaged("dropped modes", images, 6), images.held_out)]
    assert set(kept.tolist()) == {6, 7, 8, 9}
    assert len(set(origin(damaged("repeats", images, 0.75), images.held_out))) == 5
    copied = damaged("memorised", images, 0.4)
    assert len(set(origin(copied[:8], images.train))) == 8
    origin(copied[8:], images.held_out)
    bare = ImageSet("bare", images.train, images.held_out)
    with pytest.raises(ValueError, match="dataset=bare has no labels"):
        damaged("dropped modes", bare, 1)


def test_what_is_said_of_a_series():
    z = torch.tensor([[0.0, 0.1], [1.0, 2.0], [SEEN + 3, SEEN + 1], [9.0, 10.0]])
    down = torch.tensor([[9.0], [5.0], [1.0], [4.0]])
    series = Finding("x", "", [0, 1, 2, 3], {"up": z, "again": z[[0, 2, 1, 3]], "down": down}, 1, True)
    assert series.correlation("up") == pytest.approx(0.9759, abs=1e-3)  # scipy.stats.spearmanr, ties averaged
    assert series.correlation("down") == pytest.approx(-0.8)  # 1 - 6 Σd²/(n(n²-1)) = 1 - 6 * 18/60
    assert series.seen_from("up") == 2
    assert series.seen_from("again") == 3  # what falls back below was no seeing
    assert series.seen_from("down") == 3


def test_floors_are_those_of_several_draws_and_not_of_nearly_all_there_is(images, tmp_path):
    proxies = Proxies(images, 50, outputs=tmp_path, features=8, classifier=False)
    floors = Floors(images, proxies, 6, torch.device("cpu"), lambda: None)
    orders = [torch.randperm(200, generator=torch.Generator().manual_seed(1000 + seed)) for seed in range(6)]
    draws = torch.tensor([proxies(images.held_out[order[:50]])["fd_random"].value for order in orders])
    assert float(floors.mean[0]) == pytest.approx(float(draws.mean()))
    assert float(floors.spread[0]) == pytest.approx(float(draws.std()))
    other = images.train[:50]
    expected = (proxies(other)["fd_random"].value - draws.mean()) / draws.std()
    assert float(floors.z(other)[0]) == pytest.approx(float(expected), rel=1e-4)
    with pytest.raises(ValueError, match="n=101 is more than half of the 200 held-out images"):
        Floors(images, Proxies(images, 101, outputs=tmp_path, features=8, classifier=False), 2, "cpu", lambda: None)


def test_cells_with_lost_samples_are_no_black_images_in_a_series(images, tmp_path):
    proxies = Proxies(images, 50, outputs=tmp_path, features=8, classifier=False)
    floors = Floors(images, proxies, 3, torch.device("cpu"), lambda: None)
    kept = [make_result(tau=tau, nfe=nfe, shape=(1, 12, 12), n=50) for tau, nfe in ((100, 10), (50, 20), (20, 50))]
    lost = replace(make_result(tau=10, nfe=100, shape=(1, 12, 12), n=50), lost="all of its samples are not finite")
    (series,) = study.cells([*kept, lost], floors)
    assert series.x == [10, 20, 50]

"""evaluate: cells of any kind in one batch, each measured by itself."""

import math

import pytest
import torch

from skipstone import engine
from skipstone.commands.grid import build_cells
from skipstone.data import ImageSet, to_bytes
from skipstone.evaluation import evaluate
from skipstone.evaluation.metrics import Proxies

SHAPE = (1, 16, 16)


@pytest.fixture(scope="module")
def proxies(tmp_path_factory):
    pixels = torch.randint(256, (120, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageSet("noise", pixels[:80], pixels[80:])
    return Proxies(images, 20, outputs=tmp_path_factory.mktemp("outputs"), features=8)


@pytest.fixture
def cells(composed, process):
    config = composed("schedule=exp", "tau=4", "eta=0.0", "evaluation.schedules={uniform: [250], exp: [4, 6]}")
    return build_cells(config, process, [3, 4], [0.0, 1.0], config.evaluation.schedules)


def test_the_grid_then_further_schedules_each_cell_once_in_order(cells):
    assert [(cell.settings["schedule"], cell.settings["tau"], cell.settings["eta"]) for cell in cells] == [
        *[("exp", tau, eta) for eta in (0.0, 1.0) for tau in (3, 4)],
        *[("uniform", 250, eta) for eta in (0.0, 1.0)],
        *[("exp", 6, eta) for eta in (0.0, 1.0)],
    ]
    assert [cell.own for cell in cells] == [False, True] + [False] * 6


def test_every_result_is_its_cells_own(net, cells, proxies):
    results = evaluate.evaluate(net, cells, SHAPE, proxies, seed=5, batch_size=64, film=True)
    for cell, result in zip(cells, results, strict=True):
        x = engine.sample(net, cell.table, 20, SHAPE, seed=5)
        assert (to_bytes(x).int() - result.samples.int()).abs().max() <= 1
        assert result.row["fd_random"] == pytest.approx(proxies(result.samples)["fd_random"].value)
        film = result.film
        assert film.t == cell.table.t.tolist()  # fewer than 12: all
        assert film.p[-1] == -1
        assert (film.x[-1].int() - result.samples[:8].int()).abs().max() <= 1
        assert film.x.shape == film.x0.shape == (len(film.t), 8, *SHAPE)


def test_samples_that_diverge_have_no_distances_but_their_floor(cells, proxies, caplog):
    def model(x, t):  # t = 750 is visited by uniform alone
        return torch.where((t == 750)[:, None, None, None], torch.nan, 0.1 * x)

    results = evaluate.evaluate(model, cells, SHAPE, proxies, seed=0, batch_size=64)
    for result in results:
        sick = result.settings["schedule"] == "uniform"
        assert math.isnan(result.row["fd_random"]) == math.isnan(result.row["kid_random_std"]) == sick
        assert math.isfinite(result.row["fd_random_floor"])
    assert caplog.text.count("are not finite, so it has no distances") == 2

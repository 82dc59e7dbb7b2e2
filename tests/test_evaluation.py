"""evaluate: cells of any kind in one batch, each measured by itself."""

import math
from dataclasses import replace

import pytest
import torch

from skipstone import engine, schedules, solvers
from skipstone.commands.grid import build_cells
from skipstone.data import ImageSet, to_bytes
from skipstone.evaluation import evaluate
from skipstone.evaluation.cells import make_cell
from skipstone.evaluation.metrics import Proxies
from skipstone.evaluation.sampled import KeptCells

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


def test_a_film_ends_at_the_sample_also_after_a_row_without_an_evaluation(net, process, proxies):
    cell = make_cell(process, schedules.Exp(6), solvers.AFS(solvers.DDIM()))
    (result,) = evaluate.evaluate(net, [cell], SHAPE, proxies, seed=0, batch_size=20, film=True)
    assert result.film.p == cell.table.p.tolist()
    assert result.film.p[-1] == -1
    assert (result.film.x[-1].int() - result.samples[:8].int()).abs().max() <= 1


def test_samples_that_diverge_have_no_distances_but_their_floor(cells, proxies, caplog):
    def model(x, t):  # t = 750 is visited by uniform alone
        return torch.where((t == 750)[:, None, None, None], torch.nan, 0.1 * x)

    results = evaluate.evaluate(model, cells, SHAPE, proxies, seed=0, batch_size=64)
    for result in results:
        sick = result.settings["schedule"] == "uniform"
        assert math.isnan(result.row["fd_random"]) == math.isnan(result.row["kid_random_std"]) == sick
        assert math.isfinite(result.row["fd_random_floor"])
    assert caplog.text.count("are not finite, so it has no distances") == 2


class Counting(torch.nn.Module):
    """A network that counts how many images it was asked about."""

    def __init__(self, net):
        super().__init__()
        self.net, self.asked = net, 0

    def forward(self, x, t):
        self.asked += len(x)
        return self.net(x, t)


@pytest.fixture
def kept(tmp_path):
    return KeptCells(tmp_path, {"weights": "ab", "precision": "32-true", "kernels": "False"})


def test_what_was_sampled_is_not_sampled_again(net, cells, proxies, kept):
    model, how = Counting(net), dict(seed=5, batch_size=20, fine=torch.zeros(6, *SHAPE), film=True)
    first = evaluate.evaluate(model, cells[:3], SHAPE, proxies, kept=kept, **how)
    asked, model.asked = model.asked, 0
    again = evaluate.evaluate(model, cells[:3], SHAPE, proxies, kept=kept, **how)
    assert (asked > 0, model.asked) == (True, 0)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.samples, b.samples)
        assert torch.equal(a.film.x0, b.film.x0)
        assert a.measured == b.measured
        assert b.batch is None  # its time was that of three cells
    more = evaluate.evaluate(model, cells[:4], SHAPE, proxies, kept=kept, **how)
    film, warming = 8 * cells[3].table.nfe, 20
    assert model.asked == 20 * cells[3].table.nfe + film + warming
    alone = evaluate.evaluate(net, cells[3:4], SHAPE, proxies, **how)
    assert torch.equal(more[3].samples, alone[0].samples)
    assert more[3].measured == alone[0].measured
    assert more[3].facts["seconds"] > 0
    known = evaluate.evaluate(model, cells[3:4], SHAPE, proxies, kept=kept, **how)
    assert known[0].facts["seconds"] == more[3].facts["seconds"]  # it was measured alone


@pytest.mark.parametrize(
    "other", [dict(seed=6), dict(batch_size=5), dict(fine=torch.zeros(7, *SHAPE)), dict(n=19), dict(weights="cd")]
)
def test_what_was_sampled_otherwise_is_not_taken(net, cells, proxies, kept, other):
    model, how = Counting(net), dict(seed=5, batch_size=10, fine=torch.zeros(6, *SHAPE))
    evaluate.evaluate(model, cells[:1], SHAPE, proxies, kept=kept, **how)
    model.asked, other = 0, dict(other)
    form = kept.form | {"weights": other.pop("weights", "ab")}
    fewer = proxies.at(other.pop("n", proxies.n))
    results = evaluate.evaluate(model, cells[:1], SHAPE, fewer, kept=replace(kept, form=form), **how | other)
    if fewer.n == 19:  # the first ones of those that are there
        assert (model.asked, len(results[0].samples)) == (0, 19)
        assert results[0].facts["seconds"] is None
    else:
        assert model.asked > 0


def test_another_table_or_a_film_that_is_missing_is_sampled(net, cells, proxies, kept):
    model, how = Counting(net), dict(seed=5, batch_size=20, kept=kept)
    evaluate.evaluate(model, cells[:1], SHAPE, proxies, **how)
    model.asked = 0
    results = evaluate.evaluate(model, cells[:1], SHAPE, proxies, film=True, **how)
    assert model.asked > 0
    assert results[0].film is not None
    model.asked = 0
    clipped = replace(cells[0], table=replace(cells[0].table, clip_x0=True))
    evaluate.evaluate(model, [clipped], SHAPE, proxies, **how)
    assert model.asked > 0


def test_samples_that_diverge_are_not_kept(cells, proxies, kept):
    for _ in range(2):
        model = Counting(lambda x, t: x * torch.nan)
        evaluate.evaluate(model, cells[:1], SHAPE, proxies, seed=0, batch_size=64, kept=kept)
        assert model.asked > 0
    assert not list(kept.folder.rglob("*.safetensors"))


def test_a_folder_that_cannot_be_written_stops_no_evaluation(net, cells, proxies, kept, caplog):
    (kept.folder / "cells").write_text("in the way")
    (result,) = evaluate.evaluate(net, cells[:1], SHAPE, proxies, seed=0, batch_size=64, kept=kept)
    assert result.samples.shape == (20, *SHAPE)
    assert "samples are not kept for the next time" in caplog.text

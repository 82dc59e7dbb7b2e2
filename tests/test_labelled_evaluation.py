"""Cells of a model with classes: whose label is which, what is measured of it, and what the page's numbers know."""

import re
from dataclasses import replace

import pytest
import torch
from shell import ROOT

from skipstone import engine, schedules, solvers
from skipstone.data import ImageSet, to_bytes
from skipstone.evaluation import evaluate
from skipstone.evaluation.cells import make_cell
from skipstone.evaluation.fine import FineSolution
from skipstone.evaluation.labels import labels_of
from skipstone.evaluation.metrics import AGREEMENT, Proxies, metric
from skipstone.report import rows

SHAPE, N = (1, 8, 8), 20


class Flags(torch.nn.Module):
    """eps of images that are all of one level, by their class; without a label, of the middle one."""

    classes, null_label = 3, 3

    def __init__(self, process):
        super().__init__()
        self.process = process
        self.seen = []

    def forward(self, x, t, labels=None):
        labels = torch.full_like(t, 3, dtype=torch.int64) if labels is None else labels
        self.seen.append(labels)
        level = torch.tensor([-0.8, 0.0, 0.8, 0.0], dtype=x.dtype)[labels].view(-1, 1, 1, 1)
        signal, noise = (root.to(x.dtype).view(-1, 1, 1, 1) for root in self.process.roots(t))
        return (x - signal * level) / noise


@pytest.fixture(scope="module")
def flags():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    pixels = 25 + 102 * labels.view(-1, 1, 1, 1) + torch.randint(-20, 20, (240, *SHAPE), generator=generator)
    pixels = pixels.clamp(0, 255).byte()
    return ImageSet("flags", pixels[:180], pixels[180:], train_labels=labels[:180], held_out_labels=labels[180:])


@pytest.fixture(scope="module")
def proxies(flags, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("outputs")
    return Proxies(flags, N, outputs=outputs, features=8, classifier_steps=60)


def cells(process, **guidance):
    schedule = schedules.Linspace(6)
    return [make_cell(process, schedule, solver, **guidance) for solver in (solvers.DDIM(0.0), solvers.DDIM(1.0))]


def test_sample_k_has_the_class_k_mod_classes_in_every_cell_and_agrees_with_it(process, proxies):
    model = Flags(process)
    results = evaluate.evaluate(model, cells(process), SHAPE, proxies, seed=3, batch_size=7, film=True)
    for result in results:
        levels = result.samples.float().mean(dim=(1, 2, 3))
        assert (levels.sub(25.5 + 102 * (torch.arange(N) % 3)).abs() < 3).all()
        assert result.measured["agreement"].value == 1.0
        assert result.measured["agreement"].floor == 1.0
        assert result.measured["agreement"].metric is AGREEMENT
        assert (result.facts["guidance"], result.facts["guidance_interval"]) == (1.0, "")
        assert (result.film.x[-1].int() - result.samples[:8].int()).abs().max() <= 1
    wrong = proxies(results[0].samples, (torch.arange(N) + 1) % 3)["agreement"]
    assert wrong.value == 0.0
    assert results[0].measured["agreement"].beyond(wrong)
    assert metric.read(results[0].row)["agreement"].metric == AGREEMENT
    assert "agreement" not in proxies(results[0].samples)


def test_chosen_labels_are_taken_in_turn(process):
    model = Flags(process)
    assert labels_of(model, 5).tolist() == [0, 1, 2, 0, 1]
    assert labels_of(model, 5, [2, 0]).tolist() == [2, 0, 2, 0, 2]
    assert labels_of(model, 3, 1).tolist() == [1, 1, 1]
    assert labels_of(lambda x, t: x, 3) is None
    assert torch.equal(labels_of(model, 9)[:5], labels_of(model, 5))


def test_guided_cells_are_told_apart_and_held_against_their_own_fine_solution(process, proxies, tmp_path):
    model = Flags(process)
    cell = cells(process, guidance=1.5, guidance_interval=[200, 900])[0]
    assert cell.name.endswith("-guidance1.5-t200-900")
    plain = evaluate.evaluate(model, cells(process)[:1], SHAPE, proxies, seed=0, batch_size=64)
    (result,) = evaluate.evaluate(model, [cell], SHAPE, proxies, seed=0, batch_size=64)
    assert (result.facts["guidance"], result.facts["guidance_interval"]) == (1.5, "200-900")
    assert result.facts["nfe"] == cell.table.nfe > plain[0].facts["nfe"]
    x = engine.sample(model, cell.table, N, SHAPE, labels=labels_of(model, N))
    assert (to_bytes(x).int() - result.samples.int()).abs().max() <= 1
    families = rows.families([plain[0].facts, result.facts])
    assert list(families) == ["linspace, guidance=1.0", "linspace, guidance=1.5, guidance_interval=200-900"]
    assert rows.choices([result.facts])["guidance"] == [1.5]
    form = dict(weights="0")
    own = FineSolution(tmp_path, form, 0, guidance=1.5)
    fine = [
        solution.ensure(model, process, 3, SHAPE, batch_size=3) for solution in (own, FineSolution(tmp_path, form, 0))
    ]
    table = solvers.guided(solvers.DDIM(0.0).table(process, range(1000)), 1.5)
    torch.testing.assert_close(fine[0], engine.sample(model, table, 3, SHAPE, labels=labels_of(model, 3)))
    assert not torch.allclose(fine[0], fine[1], atol=0.01)
    assert torch.equal(own.read(3, SHAPE), fine[0])


def test_data_without_labels_has_no_agreement(process, flags, tmp_path):
    bare = replace(flags, name="bare", train_labels=None, held_out_labels=None)
    assert (bare.classes, bare.labels_fingerprint, flags.classes) == (None, None, 3)
    proxies = Proxies(bare, N, outputs=tmp_path, features=8)
    (result, _) = evaluate.evaluate(Flags(process), cells(process), SHAPE, proxies, seed=0, batch_size=64)
    assert "agreement" not in result.measured


def test_the_pages_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guidance.md").read_text(), re.DOTALL)
    told = {}
    exec(example, told)
    assert told["x"].isfinite().all()
    assert told["cells"][0].shape == told["cells"][1].shape == (8, 1, 16, 16)

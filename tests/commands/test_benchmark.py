"""The benchmarks measure what they say, and their door works. How fast anything is, is not asked here."""

import itertools
import json
import runpy
import sys
import time

import pytest
import torch
from shell import ROOT, SHELL, python

from skipstone import UNet, engine, schedules
from skipstone.studies.speed import clock, grid, history, peers, sweep
from skipstone.studies.speed.clock import Budget, Contender
from skipstone.studies.speed.markdown import table
from skipstone.studies.speed.report import Report
from skipstone.studies.speed.subject import Subject

PAPER = ["model=unet_cifar10", "dataset=cifar10", "noise=linear"]
SMALL = [
    "model=unet_cifar10", "model.base=16", "model.multipliers=[1,2]", "model.attention=[4]", "model.blocks=1",
    "dataset.image_size=8", "dataset.held_out=10", "trainer.log_every_n_steps=1",
]  # fmt: skip
ROW = {
    "title", "name", "peer", "images", "evaluations", "first_seconds", "seconds", "median_seconds",
    "images_per_second", "evaluations_per_second", "tflops", "of_product", "of_first",
}  # fmt: skip


def sleeper(name, seconds, peer=False):
    def round():
        return [clock.seconds(lambda: time.sleep(seconds), torch.device("cpu"))]

    return Contender(name, round, images=2, evaluations=20, flop=1e6, warm_up=round, peer=peer)


def test_a_doubled_sleep_shows():
    (one, two), left_out = clock.alternate([sleeper("one", 0.02), sleeper("two", 0.04)], 3, Budget(60))
    assert [len(measured.seconds) for measured in (one, two)] == [3, 3]
    assert 1.5 < two.median / one.median < 2.5
    assert left_out == []


def test_what_the_budget_has_no_room_for_is_left_out_and_named():
    measured, left_out = clock.alternate([sleeper("quick", 0.01), sleeper("slow", 0.2)], 50, Budget(0.7))
    assert [one.contender.name for one in measured] == ["quick", "slow"]
    assert measured[0].rounds > measured[1].rounds
    assert left_out[1].startswith("slow: ")
    measured, left_out = clock.alternate([sleeper("slow", 0.2), sleeper("late", 0.01)], 1, Budget(0.3))
    assert [one.contender.name for one in measured] in ([], ["slow"])
    assert any(sentence.startswith("late: 0 s are too few") for sentence in left_out)


def broken(name, peer):
    def fail():
        raise RuntimeError("no such kernel\nand a page more")

    return Contender(name, fail, 1, 1, 1.0, fail, peer)


def test_a_peer_that_fails_does_not_end_the_measuring_and_one_of_ours_does():
    measured, left_out = clock.alternate([broken("theirs", True), sleeper("ours", 0.001)], 1, Budget(60))
    assert [one.contender.name for one in measured] == ["ours"]
    assert left_out == ["theirs: RuntimeError: no such kernel"]
    with pytest.raises(RuntimeError):
        clock.alternate([broken("ours", False)], 1, Budget(60))


def test_operations_are_those_of_the_papers_network():
    """One convolution is counted by hand; the whole is what others count, 12.44 GFLOP."""
    assert Subject.of(PAPER).flop == pytest.approx(12.44e9, rel=1e-3)


def test_the_peer_has_the_same_network_to_the_last_parameter():
    subject = Subject.of(SMALL)
    net, theirs = subject.network(), peers.network(subject)
    assert isinstance(net, UNet)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in net.parameters())
    assert all(parameter.any() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("overrides", "asked", "wanted"),
    [([], None, False), (SMALL, None, False), (PAPER, None, True), (PAPER, False, False), (SMALL, True, True)],
)
def test_the_peer_is_measured_beside_the_papers_network_or_when_asked_for(overrides, asked, wanted):
    assert peers.wanted(Subject.of(overrides), asked) == wanted


def test_a_peer_that_has_no_such_network_is_refused():
    with pytest.raises(ValueError, match=r"--peer asks for a network that diffusers has: choose model=unet_cifar10"):
        peers.wanted(Subject.of([]), True)


@pytest.fixture
def door(monkeypatch):
    """scripts/benchmark.py in this process, for starting one takes longer than what it does here."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, arguments)])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        runpy.run_path(str(ROOT / "scripts" / "benchmark.py"), run_name="__main__")

    return call


QUICK = ["--rounds", "2", "--steps", "2", "evaluation.batch_size=2", "training.batch_size=2", *SMALL]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    path = tmp_path_factory.mktemp("sampled") / "new" / "sampling.json"
    done = python("scripts/benchmark.py", "sampling", *QUICK, "--peer", "--profile", "--json", path, **SHELL)
    assert done.returncode == 0, done.stderr
    return path, done.stdout


def test_sampling_leaves_every_figure_for_machines(sampled):
    path, _ = sampled
    content = json.loads(path.read_text())
    names = ["network alone", "engine.sample", "diffusers, as shipped", "diffusers, float32"]
    assert [row["name"] for row in content["rows"]] == names
    for row in content["rows"]:
        assert set(row) == ROW
        assert len(row["seconds"]) == 2
        assert row["evaluations_per_second"] == pytest.approx(2 * row["images_per_second"])
        flop = row["evaluations_per_second"] * content["gflop"] * 1e9
        assert row["tflops"] * 1e12 == pytest.approx(flop)
        assert row["of_product"] == pytest.approx(row["tflops"] / content["product_tflops"])
    assert content["rows"][0]["of_first"] == 1
    assert [row["peer"] for row in content["rows"]] == [False, False, True, True]
    assert [row["n"] for row in content["small"]] == [1, 4, 16]
    assert sum(kernel["share"] for kernel in content["profiles"]["engine.sample"]) == pytest.approx(1)
    assert any("convolution" in kernel["name"] for kernel in content["profiles"]["engine.sample"])
    assert content["torch"] == torch.__version__
    assert content["left_out"] == []


def test_the_docs_tables_are_made_of_the_file(sampled):
    path, printed = sampled
    text = table([str(path)])
    (row,) = (row for row in json.loads(path.read_text())["rows"] if row["name"] == "engine.sample")
    assert f"| engine.sample | {row['images_per_second']:,.1f} |" in text
    assert f"{row['images_per_second']:.1f}" in printed
    assert "| 16 | " in text
    assert "| kernels of engine.sample |" in text
    with pytest.raises(ValueError, match="name the files"):
        table([])


def test_a_table_takes_the_place_of_the_one_before_in_its_page(sampled, tmp_path):
    page, (path, _) = tmp_path / "page.md", sampled
    page.write_text("Before\n<!-- sampling -->\nold\n<!-- /sampling -->\nafter\n")
    for _ in range(2):
        text = table([str(path)], page)
        assert page.read_text() == f"Before\n<!-- sampling -->\n{text}\n<!-- /sampling -->\nafter\n"
    page.write_text("Nothing here\n")
    with pytest.raises(ValueError, match=r"page\.md has no lines <!-- sampling --> and <!-- /sampling -->"):
        table([str(path)], page)
    assert page.read_text() == "Nothing here\n"


def test_what_is_no_result_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"other\.json is not a file that --json wrote"):
        table([str(tmp_path / "other.json")])


def test_training_compares_fit_with_a_bare_loop_and_with_the_peer(tmp_path, door, capsys):
    path = tmp_path / "training.json"
    door("training", *QUICK, "--rounds", "1", "--peer", "--minutes", "0.01", "--profile", "--json", path)
    content = json.loads(path.read_text())
    rows = content["rows"]
    assert [row["name"] for row in rows[:3]] == ["bare loop", "trainer.fit", "diffusers, float32"]
    assert rows[3]["title"] == "sustained"
    assert len(content["sustained_images_per_second"]) == 10
    for row in rows:  # a backward pass counts as two forward ones
        flop = 3 * row["evaluations_per_second"] * content["gflop"] * 1e9
        assert row["tflops"] * 1e12 == pytest.approx(flop)
    assert "by tenths" in capsys.readouterr().out


def test_a_sweep_is_held_against_one_training_its_samplings_and_one_fine_solution(monkeypatch, capsys):
    order = []

    def command(outputs, cells, overrides):
        order.append(outputs.name)
        solved = 2 if any(eta == 0 for _, eta in cells) else 0
        more = 5.7 if len(cells) > 1 else 0  # 5 % of all
        return sweep.Seconds(100 + len(cells) + solved + more, 200)

    def cells_alone(outputs, overrides):
        order.append(f"cells of {outputs.name}")
        return dict.fromkeys(itertools.product(sweep.TAUS, sweep.ETAS), sweep.Seconds(1, 1)), sweep.Seconds(2, 2)

    monkeypatch.setattr(sweep, "_command", command)
    monkeypatch.setattr(sweep, "_cells_alone", cells_alone)
    sweep.sweep([])
    assert order == ["first", "cells of first", "all", "last", "cells of last"]
    wall = capsys.readouterr().out.split("seconds by the processor")[0].split()
    assert " ".join(wall).startswith(
        "seconds by the wall one training, alone 100.0 (before the sweep 100.0, after it 100.0) "
        "12 samplings, alone 14.0 (before the sweep 14.0, after it 14.0) the sweep 119.7 1.050 of both "
        "12 separate runs 1220.0"
    )


def test_the_grid_takes_all_its_cells_evaluations(monkeypatch):
    monkeypatch.setattr(grid, "TAUS", (2, 5))
    monkeypatch.setattr(grid, "IMAGES", 4)
    subject = Subject.of([*SMALL, "evaluation.batch_size=8"])
    report = Report("grid", subject, None)
    grid.grid(subject, report, rounds=1, calls=2, budget=Budget(60), peer=True)
    rows = {row["name"]: row for row in report.content["rows"]}
    assert list(rows) == ["network alone", "sample_many", "cell by cell", "diffusers, as shipped", "diffusers, float32"]
    visited = sum(len(schedules.Exp(tau)(1000)) for tau in (2, 5))
    for name in ("sample_many", "cell by cell"):
        assert rows[name]["images"] == 2 * 3 * 4
        assert rows[name]["evaluations"] == 3 * 4 * visited


def test_nine_earlier_rows_are_held_against_one(tmp_path, door):
    path = tmp_path / "history.json"
    door("history", *QUICK, "noise.num_steps=60", "noise.beta_T=0.2", "--json", path)
    first, second = json.loads(path.read_text())["rows"]
    assert (first["name"], second["name"]) == ("K = 1", "K = 9")
    assert first["evaluations"] == second["evaluations"]
    assert second["of_first"] == pytest.approx(second["median_seconds"] / first["median_seconds"])


def test_the_tables_of_one_and_nine_columns_sample_alike():
    subject = Subject.of([*SMALL, "noise.num_steps=60", "noise.beta_T=0.2"])
    one, nine = history.tables(subject).values()
    assert (one.c.shape[1], nine.c.shape[1]) == (1, 9)
    x, y = engine.sample_many(subject.network(), [one, nine], 2, subject.shape)
    assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sampling", "evaluation.batch_size=0"], "evaluation.batch_size=0 is not allowed"),
        (["sampling", "--peer"], "--peer asks for a network that diffusers has"),
        (["table", "nowhere.json"], "nowhere.json"),
    ],
)
def test_bad_input_gets_one_sentence(arguments, said, door, capsys):
    with pytest.raises(SystemExit) as stopped:
        door(*arguments)
    assert stopped.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line

"""Multiruns: one training, a failure that stops nobody, one report over all jobs, and what is left is made up for."""

import csv
import re
from dataclasses import replace

import pytest
import torch
from cells import make_grid
from shell import python, run, summary_of

from skipstone import archive, sweep

_TRAINING = "[skipstone.job][INFO] - training "


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Six jobs, two of which ask for a tau that there is not; fresh=true trains once all the same."""
    outputs = tmp_path_factory.mktemp("outputs")
    return run(f"paths.outputs={outputs}", "tau=3,5,99", "eta=0.0,1.0", "fresh=true", "-m"), outputs


@pytest.fixture(scope="module")
def folder(done):
    (found,) = done[1].glob("sweeps/*/*")
    return found


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_multirun_trains_once_and_a_failing_job_stops_no_other(done, folder):
    finished, outputs = done
    assert finished.returncode == 1
    assert finished.stdout.count(_TRAINING) == 1
    assert len(list((outputs / "models").iterdir())) == 1
    assert sorted(path.parent.name for path in folder.glob("*/report.html")) == ["0", "1", "2", "3"]
    assert sorted(path.parent.name for path in folder.glob("*/error.txt")) == ["4", "5"]
    assert [path.parent.name for path in folder.glob("*/training")] == ["0"]


def test_each_job_samples_its_own_cell_and_the_sweep_is_the_grid(done, folder):
    assert [len(rows_of(folder / str(job) / "evaluation.csv")) for job in range(4)] == [1] * 4
    rows = rows_of(folder / "evaluation.csv")
    assert [(row["tau"], row["eta"]) for row in rows] == [("3", "0.0"), ("3", "1.0"), ("5", "0.0"), ("5", "1.0")]
    assert {row["model"] for row in rows} == {path.name for path in (done[1] / "models").iterdir()}
    for name in ("curves.png", "contact.png"):
        assert (folder / name).stat().st_size > 0


def test_failed_jobs_are_named_with_their_sentence(done, folder):
    page = (folder / "report.html").read_text()
    for job in ("4", "5"):
        said = rf"Job {job} \(.* tau=99 .*\) has no result: tau=99 is not allowed with schedule=uniform"
        assert re.search(said, page)
        assert re.search(said, done[0].stdout.replace("\n", " "))


def test_its_runs_in_wandb_are_one_group_and_all_finished(folder):
    records = list(folder.glob("*/wandb/offline-run-*/*.wandb"))
    assert len(records) == 1 + 4  # the training's and a sampling's each
    for record in records:
        assert folder.name.encode() in record.read_bytes()
        assert "finished (exit code 0)" in summary_of(record.parent)[1]


def test_resume_runs_the_jobs_without_a_result_and_no_other(done, folder):
    (folder / "1" / "results.safetensors").unlink()
    (folder / "evaluation.csv").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("[023]/results.safetensors")}
    again = python("train.py", f"resume={folder}", "logger=none")
    assert again.returncode == 1  # tau=99 is as wrong as before
    assert _TRAINING not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert archive.there(folder / "1")
    assert len(rows_of(folder / "evaluation.csv")) == 4


def test_report_writes_the_page_again(folder):
    (folder / "report.html").unlink()
    assert python("scripts/report.py", folder).returncode == 0
    assert (folder / "report.html").stat().st_size > 0


def test_results_are_read_back_as_they_were(tmp_path):
    results = make_grid()
    archive.save(results, "some-model", tmp_path)
    for before, after in zip(results, archive.load(tmp_path), strict=True):
        assert after.row == {"model": "some-model", **before.row}
        assert after.own == before.own
        assert (after.film.t, after.film.p) == (before.film.t, before.film.p)
        assert torch.equal(after.film.x0, before.film.x0)
        assert torch.equal(after.samples, before.samples[:64])


def test_the_same_cell_of_two_models_is_two_cells_and_of_one_model_one(tmp_path):
    (tmp_path / "multirun.yaml").write_text("hydra: {overrides: {hydra: [], task: ['seed=0,1']}}")
    cell = replace(make_grid()[0], own=True)
    for job, model in enumerate(("first", "second", "first")):
        (tmp_path / str(job)).mkdir()
        archive.save([cell], model, tmp_path / str(job))
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "results.safetensors").write_bytes(b"cut off")
    page = sweep.report(tmp_path).read_text()
    rows = rows_of(tmp_path / "evaluation.csv")
    assert [row["cell"] for row in rows] == [f"first-{cell.name}", f"second-{cell.name}"]
    assert [row["model"] for row in rows] == ["first", "second"]
    assert "results.safetensors is damaged" in page

"""scripts/fit.py as a user types it, and solver=fitted in the commands that sample."""

import csv
import json

import numpy as np
import pytest
import torch
from shell import python, run, run_folder

from skipstone import engine, load, solvers

SMALL = ["iterations=3", "pairs=16", "held_out=6", "batch_size=4", "classifier_steps=4"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model with tables for 3 and 4 evaluations."""
    outputs = tmp_path_factory.mktemp("outputs")
    trained = run("logger=none", f"paths.outputs={outputs}")
    assert trained.returncode == 0, trained.stderr
    done = python("scripts/fit.py", "run=latest", "nfe=[4,3]", *SMALL, f"paths.outputs={outputs}")
    assert done.returncode == 0, done.stderr
    assert "solver=fitted nfe=4" in done.stdout
    (folder,) = (outputs / "models").iterdir()
    return folder


def test_what_a_fit_leaves(model):
    names = {f"fitted-nfe{nfe}.{ending}" for nfe in (3, 4) for ending in ("json", "csv", "png")}
    assert {path.name for path in (model / "tables").iterdir()} == names
    _, process = load(model)
    for nfe in (3, 4):
        path = model / "tables" / f"fitted-nfe{nfe}.json"
        made = json.loads(path.read_text())["provenance"]
        assert made["after"] <= made["before"]
        assert (made["pairs"], made["seed"], made["objective"]) == (16, 0, "classifiers of seeds (1, 2)")
        table = solvers.load_table(path, process)
        assert (table.nfe, table.stochastic) == (nfe, False)
        rows = list(csv.DictReader(path.with_suffix(".csv").open()))
        assert [row["iteration"] for row in rows] == ["0", "3"]
        assert float(rows[0]["held_out"]) == made["before"]
    folders = {path.name for path in (model.parents[1] / "classifiers").iterdir()}
    assert len(folders) == 3  # that of the metrics, and two others


def test_the_same_fit_again_is_the_same_file_whatever_else_is_fitted(model):
    path = model / "tables" / "fitted-nfe3.json"
    before = path.read_bytes()
    path.unlink()
    done = python("scripts/fit.py", f"run={model}", "nfe=3", *SMALL, f"paths.outputs={model.parents[1]}")
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before


def test_samples_are_those_of_the_table(model, tmp_path):
    words = [f"run={model}", "solver=fitted", "nfe=3", "n=4", f"paths.outputs={model.parents[1]}"]
    done = python("scripts/sample.py", *words, f"out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "4 samples of fitted-nfe3 (3 evaluations each)" in done.stdout.replace("\n", " ")
    net, process = load(model)
    table = solvers.load_table(model / "tables" / "fitted-nfe3.json", process)
    ours = engine.sample(net, table, 4, (1, 28, 28), seed=0)
    theirs = torch.from_numpy(np.load(tmp_path / "out" / "samples.npz")["samples"])
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_train_py_names_it_in_the_report_and_the_csv(model):
    words = ["logger=none", f"paths.outputs={model.parents[1]}", "solver=fitted", "nfe=3", "evaluation.nfes=[3,4]"]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    folder = run_folder(done)
    rows = list(csv.DictReader((folder / "evaluation.csv").open()))
    assert [(row["cell"], row["solver"], row["schedule"], row["nfe"]) for row in rows] == [
        (f"fitted-nfe{nfe}", "fitted", "fitted", str(nfe)) for nfe in (3, 4)
    ]
    assert all(float(row["solver_rmse"]) > 0 for row in rows)
    assert "fitted-nfe3" in (folder / "report.html").read_text()


def test_without_a_table_the_model_is_trained_and_the_next_command_named(tmp_path):
    done = run("logger=none", f"paths.outputs={tmp_path}", "solver=fitted", "nfe=3")
    assert done.returncode == 1
    (model,) = (tmp_path / "models").glob("*/DONE")
    said = done.stderr.replace("\n", " ")
    assert f"there is none: run python scripts/fit.py run={model.parent.name} nfe=3." in said

"""What docs/guidance.md shows, typed: one training with labels, sampled and measured with guidance."""

import csv
import re
import shlex

import numpy as np
import pytest
from shell import ROOT, python

from skipstone import load

COMMANDS = re.findall(r"^    python (.+guidance=.+)$", (ROOT / "docs" / "guidance.md").read_text(), re.MULTILINE)
TINY = ["experiment=smoke", "logger=none"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Where the page's sweep has trained its model."""
    outputs = tmp_path_factory.mktemp("outputs")
    done = python(*shlex.split(COMMANDS[0]), *TINY, f"paths.outputs={outputs}")
    assert done.returncode == 0, done.stderr
    return outputs


def typed(command, key, *words):
    return python(*shlex.split(command.replace("<key>", key)), *words)


def test_the_page_shows_these():
    assert [command.split()[0] for command in COMMANDS] == ["train.py", "scripts/sample.py", "scripts/evaluate.py"]


def test_a_sweep_over_guidance_trains_once_and_tells_its_cells_apart(outputs):
    (folder,) = outputs.glob("models/mnist5k-*/")
    model, _ = load(folder)
    assert (model.classes, model.null_label) == (10, 10)
    (path,) = outputs.glob("sweeps/*/*/evaluation.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert {row["guidance"] for row in rows} == {"1.0", "2.0"}
    assert len({row["cell"] for row in rows}) == len(rows) == 2
    one, two = sorted(rows, key=lambda row: row["guidance"])
    assert int(two["nfe"]) == 2 * int(one["nfe"])
    assert one["kid_random"] != two["kid_random"]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("agreement", "agreement_floor"))


def test_samples_come_with_their_labels_and_a_label_out_of_range_is_refused(outputs):
    (folder,) = outputs.glob("models/mnist5k-*/")
    out = outputs / "x"
    words = [f"paths.outputs={outputs}", "n=4", "tau=4"]
    done = typed(COMMANDS[1], folder.name, f"out={out}", *words)
    assert done.returncode == 0, done.stderr
    kept = np.load(out / "samples.npz")
    assert kept["labels"].tolist() == [0, 1, 2, 0]
    refused = typed("scripts/sample.py run=<key> labels=12", folder.name, f"out={outputs / 'y'}", *words)
    assert refused.returncode == 1
    assert "error: labels has 12, and this model has the classes 0 ... 9." in refused.stderr
    assert not (outputs / "y").exists()


def test_a_finished_model_is_measured_with_guidance(outputs):
    (folder,) = outputs.glob("models/mnist5k-*/")
    out = outputs / "measured"
    small = ["evaluation.taus=[4]", "evaluation.images=8", "evaluation.fine_images=2", "metrics.features=4", "tau=4"]
    done = typed(
        COMMANDS[2], folder.name, f"out={out}", f"paths.outputs={outputs}", *small, "metrics.classifier_steps=2"
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((out / "evaluation.csv").read_text().splitlines()))
    assert {(row["guidance"], row["agreement"] != "") for row in rows} == {("1.5", True)}
    assert any(row["solver_rmse"] for row in rows)
    assert "The samples are of the classes 0 to 9 in turn" in (out / "report.html").read_text()

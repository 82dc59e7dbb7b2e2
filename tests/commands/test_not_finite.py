"""A model one of whose weights is NaN: every command says so, and at which t, and ends with another code than 0."""

import re

import pytest
import torch
from shell import python, run

from skipstone import load
from skipstone.store import stored

SAYS = r"all \d+ samples are not finite \(NaN or infinite\); the first value that is not finite appeared at t=19"


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """(outputs, key) of a smoke model with one NaN among its weights."""
    outputs = tmp_path_factory.mktemp("outputs")
    done = run("logger=none", f"paths.outputs={outputs}")
    assert done.returncode == 0, done.stderr
    (folder,) = [path.parent for path in outputs.glob("models/*/DONE")]
    net, _ = load(folder)
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] = torch.nan
    stored.save_weights(net, stored.weights_of(folder), folder.name)
    return outputs, folder.name


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sample", ["schedule=linspace", "tau=4", "n=3"]),
        ("interpolate", ["schedule=linspace", "tau=4", "rows=1", "columns=3"]),
        ("reconstruct", ["schedule=linspace", "tau=4", "taus=[4]", "exact=[]", "n=3"]),
    ],
)
def test_nothing_is_written_where_nothing_is_finite(broken, tmp_path, script, words):
    outputs, key = broken
    where = [f"run={key}", f"paths.outputs={outputs}", f"out={tmp_path / 'out'}"]
    done = python(f"scripts/{script}.py", *where, *words)
    assert done.returncode == 1, done.stdout
    expected = SAYS.replace("t=19", r"t=\d+") if script == "reconstruct" else SAYS
    assert re.search(expected + "; nothing is written. Take other weights", done.stderr), done.stderr
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_the_page_is_written_with_what_is_known(broken, command):
    outputs, key = broken
    before = set(outputs.rglob("report.html"))
    words = ["logger=none", f"paths.outputs={outputs}", "evaluation.taus=[2]", "evaluation.etas=[0.0]"]
    if command == "train":
        done = run(*words, "schedule=linspace", "tau=4")
    else:
        smaller = [
            "metrics.features=8",
            "metrics.classifier_steps=10",
            "evaluation.images=16",
            "evaluation.fine_images=2",
        ]
        done = python("scripts/evaluate.py", f"run={key}", *words, *smaller, "schedule=linspace", "tau=4")
    assert done.returncode == 1, done.stdout
    assert re.search(SAYS + r"; \S+report.html has what there is. Take other weights", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    (page,) = set(outputs.rglob("report.html")) - before
    assert re.search(SAYS, page.read_text())
    assert (page.parent / "evaluation.csv").is_file()


def test_a_sweeps_page_says_it_too(broken):
    outputs, _ = broken
    sweep = outputs / "sweep"
    words = ["-m", "logger=none", f"paths.outputs={outputs}", f"hydra.sweep.dir={sweep}", "schedule=linspace"]
    done = run(*words, "tau=4,5")
    assert done.returncode == 1, done.stdout
    assert len(re.findall(SAYS, (sweep / "report.html").read_text())) >= 2

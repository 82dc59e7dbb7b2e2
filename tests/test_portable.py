"""Tables in files, and what is shown of a table without a network."""

import csv
import dataclasses
import json

import pytest
import torch
from shell import python

from skipstone import ForwardProcess, noise, schedules, solvers
from skipstone.solvers import StepTable

PROCESS = ForwardProcess(noise.linear())
KARRAS = schedules.Karras(7, PROCESS.betas)(1000)
TABLES = [
    solvers.DDIM(eta=0.3, clip_x0=True).table(PROCESS, (0, 400, 999)),
    solvers.UniPC().table(PROCESS, KARRAS),
    solvers.AFS(solvers.AdamsBashforth(4, "published")).table(PROCESS, KARRAS),
    solvers.DDIM().encode_table(PROCESS, (0, 400, 999)),
]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_comes_back_to_the_last_bit(tmp_path, table):
    path = tmp_path / "table.json"
    solvers.save_table(table, path, {"solver": "ε", "order": 3})
    back = solvers.load_table(path, PROCESS)
    for field in dataclasses.fields(StepTable):
        ours, theirs = getattr(table, field.name), getattr(back, field.name)
        same = ours == theirs if field.name in ("clip_x0", "start_scale") else torch.equal(ours, theirs)
        assert same
        assert (type(ours), getattr(ours, "dtype", None)) == (type(theirs), getattr(theirs, "dtype", None))
    data = json.loads(path.read_text())
    assert (data["evaluations"], data["provenance"]) == (table.nfe, {"solver": "ε", "order": 3})
    assert [child.name for child in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:-100], "is no step table: it is not JSON"),
        (lambda text: "[1, 2]", 'is no step table: "format"'),
        (lambda text: text.replace('"version": 1', '"version": 3'), "has version 3, and version 2 is read here"),
        (lambda text: text.replace('"a": ', '"A": ', 1), "is damaged .KeyError: 'a'"),
        (lambda text: text.replace('"evaluated": true', '"evaluated": false'), "may be false in the first row"),
        (lambda text: text.replace('"b": ', '"b": NaN, "z": ', 1), "b has numbers that are not finite"),
        (lambda text: text.replace('"sqrt_alpha_bar": 0', '"sqrt_alpha_bar": 7', 1), "contradict each other"),
        (lambda text: text.replace('"evaluations": 7', '"evaluations": 8'), "contradict each other"),
        (lambda text: text.replace('"c": [', '"c": [[', 1).replace("]", "]]", 1), "is damaged"),
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(tmp_path, change, said):
    path = tmp_path / "table.json"
    solvers.save_table(TABLES[1], path)
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(ValueError, match=said) as caught:
        solvers.load_table(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("betas", [noise.cosine(), noise.linear(100, rescale=True)])
def test_a_table_of_another_process_is_refused(tmp_path, betas):
    solvers.save_table(TABLES[1], tmp_path / "table.json")
    with pytest.raises(ValueError, match="this table is for another process"):
        solvers.load_table(tmp_path / "table.json", ForwardProcess(betas))


SOLVERS = [
    solvers.DDIM(),
    solvers.DDIM(eta=1.0),
    solvers.ProbabilityFlow(),
    solvers.DPMSolverPP(order=3),
    solvers.AdamsBashforth(order=4),
    solvers.DEIS(order=3),
    solvers.UniPC(),
    solvers.Heun(),
    solvers.Heun(churn=10.0),
    solvers.DPMSolver(order=3),
    solvers.SASolver(),
    solvers.SDEDPMSolverPP(),
    solvers.Restart(),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)
def test_lemma_1_holds_for_every_solver(solver):
    for steps in (KARRAS, schedules.Exp(9)(1000)):
        table = solver.table(PROCESS, steps)
        proof = solvers.prove(table, PROCESS)
        assert (proof.evaluations, proof.history, proof.stochastic) == (table.nfe, table.c.shape[1], table.stochastic)
        if solver.name != "probability_flow":  # whose Euler step misses both, by an error of order 2
            assert proof.mean < 1e-11
            assert proof.variance < 1e-11


def test_a_proof_sees_what_is_wrong():
    large = solvers.prove(solvers.DDIM(eta=1.0, sigma="large").table(PROCESS, KARRAS), PROCESS)
    assert large.mean < 1e-12
    assert large.variance > 1e-3
    table = solvers.UniPC().table(PROCESS, KARRAS)
    wrong = solvers.prove(dataclasses.replace(table, b=table.b * 1.001), PROCESS)
    assert wrong.mean > 1e-4
    with pytest.raises(ValueError, match="another process"):
        solvers.prove(table, ForwardProcess(noise.cosine()))
    with pytest.raises(ValueError, match="is not linear"):
        solvers.prove(TABLES[0], PROCESS)


def test_a_stored_table_stands_in_for_a_solver(tmp_path):
    path = tmp_path / "unipc7.json"
    solvers.save_table(TABLES[1], path)
    stored = solvers.Stored(str(path))
    assert (stored.name, stored.table(PROCESS).nfe) == ("table_unipc7", 7)
    assert torch.equal(stored.table(PROCESS).a, TABLES[1].a)
    with pytest.raises(ValueError, match="brings its own steps: use schedule=custom"):
        stored.table(PROCESS, (0, 999))
    with pytest.raises(ValueError, match=r"has clip_x0=false: set solver.clip_x0"):
        solvers.Stored(str(path), clip_x0=True).table(PROCESS)
    with pytest.raises(ValueError, match=r"cannot be read .No such file"):
        solvers.Stored(str(tmp_path / "none.json")).table(PROCESS)


def test_train_py_samples_a_stored_table(tmp_path):
    """As a user types it, on a process of 100 steps; then on another process, which is refused in one sentence."""
    process = ForwardProcess(noise.linear(100, rescale=True))
    path = tmp_path / "heun.json"
    solvers.save_table(solvers.Heun().table(process, schedules.Karras(3, process.betas)(100)), path)
    words = ["experiment=smoke", "logger=none", f"paths.outputs={tmp_path}", "solver=table", f"solver.path={path}"]
    words += ["schedule=custom", "schedule.timesteps=[]", "tau=null", "noise.num_steps=100"]
    done = python("train.py", *words, "noise=rescaled")
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader(next(tmp_path.glob("runs/*/*/evaluation.csv")).open())
    assert (row["solver"], row["schedule"], row["nfe"]) == ("table_heun", "custom", "5")
    failed = python("train.py", *words, "noise=cosine")
    assert failed.returncode != 0
    assert failed.stderr.splitlines()[-1].startswith("error: this table is for another process")

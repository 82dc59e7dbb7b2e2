"""The examples of docs/extending.md, as a reader types them: files beside train.py, and its command line."""

import ast
import csv
import re
import shutil

import pytest
import torch
from shell import ENVIRONMENT, ROOT, python, run_folder

from skipstone import schedules, solvers

PAGE = (ROOT / "docs" / "extending.md").read_text()
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"^    python train\.py (.*own_(\w+)\..*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the page describes it; the package itself is installed."""
    folder = tmp_path_factory.mktemp("extending")
    shutil.copy(ROOT / "train.py", folder)
    for name, example in EXAMPLES.items():
        (folder / name).write_text(example)
    return folder


def lines(done):
    assert done.returncode == 0, done.stderr
    with (run_folder(done) / "evaluation.csv").open() as file:
        return list(csv.DictReader(file))


def built(name):
    """What an example defines, in this process."""
    space = {}
    exec(EXAMPLES[name], space)
    return space


def test_every_kind_has_an_example_of_at_most_twenty_lines_and_its_command():
    kinds = ["data", "metric", "midpoint", "network", "schedule", "solver"]
    assert sorted(EXAMPLES) == [f"own_{kind}.py" for kind in kinds]
    assert sorted(kind for _, kind in COMMANDS) == kinds
    for name, example in EXAMPLES.items():
        assert len(example.strip().splitlines()) <= 20 - 1, name  # and the line with the file's name
        assert max(map(len, example.splitlines())) <= 120, name
        ast.parse(example)


def test_the_files_that_the_page_names_are_there():
    for path in re.findall(r"`((?:src|scripts)/[\w/]+\.py)`", PAGE):
        assert (ROOT / path).is_file(), path


def test_each_command_runs_and_its_results_are_those_of_ones_own(folder):
    results = {}
    for words, kind in COMMANDS:
        results[kind] = lines(python("train.py", *words.split(), cwd=folder))
    assert {line["solver"] for line in results["solver"]} == {"two_m"}
    assert {line["solver"] for line in results["midpoint"]} == {"midpoint"}
    assert {line["schedule"] for line in results["schedule"]} == {"power_power3"}
    brightness = [float(line["brightness"]) for line in results["metric"]]
    assert len(set(brightness)) == len(brightness) > 1
    assert len({line["brightness_floor"] for line in results["metric"]}) == 1
    assert all(0 < float(line["brightness_std"]) < 20 for line in results["metric"])
    keys = sorted(path.parent.name for path in (folder / "outputs" / "models").glob("*/DONE"))
    assert [key.rpartition("-")[0] for key in keys] == ["mnist5k", "mnist5k", "squares"]  # three of them share one


def test_ones_own_metric_is_on_the_page_and_on_the_terminal_and_stands_alone_without_distances(folder):
    words = next(words for words, kind in COMMANDS if kind == "metric").split()
    done = python("train.py", *words, "metrics=none", cwd=folder)
    columns = list(lines(done)[0])
    assert columns[columns.index("images") + 1 : columns.index("seconds")] == [
        "solver_rmse", "solver_rmse_median", "solver_rmse_std", "brightness", "brightness_std", "brightness_floor",
    ]  # fmt: skip
    assert "brightness" in done.stdout
    page = (run_folder(done) / "report.html").read_text()
    assert '"metrics": ["solver_rmse", "brightness"]' in page
    assert '<button type="button">brightness</button>' in page


def test_from_another_folder_pythonpath_is_what_finds_it(folder, tmp_path):
    away = tmp_path / "mine"
    away.mkdir()
    shutil.move(folder / "own_solver.py", away)
    try:
        words = next(words for words, kind in COMMANDS if kind == "solver").split()
        failed = python("train.py", *words, cwd=folder)
        assert failed.returncode == 1
        assert "Are you sure that module 'own_solver' is installed?" in failed.stderr.splitlines()[-1]
        found = f"{away}:{ENVIRONMENT.get('PYTHONPATH', '')}"
        assert lines(python("train.py", *words, cwd=folder, environment=ENVIRONMENT | {"PYTHONPATH": found}))
    finally:
        shutil.move(away / "own_solver.py", folder)


@pytest.mark.parametrize("to_data", [True, False])
def test_the_derived_row_is_the_packages_own(process, to_data):
    """From the paper's line to the same numbers as DPMSolverPP, which the multistep tests hold against theirs."""
    timesteps = schedules.Exp(12)(1000)
    own = built("own_solver.py")["TwoM"](to_data=to_data).table(process, timesteps)
    ours = solvers.DPMSolverPP(order=2, to_data=to_data).table(process, timesteps)
    for column in ("f", "t", "p", "a", "b", "c", "u", "v", "s"):
        torch.testing.assert_close(getattr(own, column), getattr(ours, column), rtol=1e-12, atol=1e-12)


def test_a_tau_that_the_schedule_refuses_is_one_sentence(folder):
    words = next(words for words, kind in COMMANDS if kind == "schedule").replace("tau=6", "tau=1").split()
    done = python("train.py", *words, cwd=folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: tau=1 must be in 2 ... 20 with the schedule power."

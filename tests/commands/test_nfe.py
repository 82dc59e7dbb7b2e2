"""nfe=20 in place of a tau: the tau that it means, and the command lines that take it."""

import csv
import re
from functools import partial

import numpy as np
import pytest
import torch
from shell import python, run, run_folder

from skipstone import ForwardProcess, engine, load, noise, solvers
from skipstone.commands.grid import build_cells, choose_taus
from skipstone.schedules import Exp, Leading, Linspace, LogSNR, Quad, Trailing, Uniform
from skipstone.solvers import DDIM, AdamsBashforth, DPMSolverPP, StepTable, reach
from skipstone.solvers.table import Path

SCHEDULES = {kind.name: kind for kind in (Uniform, Exp, Quad, Leading, Linspace, Trailing, LogSNR)}


class TwoStage(DDIM):
    """A step asks the network twice, and the last one once, as in Heun's method. Its samples mean nothing."""

    name = "two_stage"

    def table(self, process, timesteps):
        rows = super().table(process, timesteps)
        twice = torch.arange(len(rows.t)).repeat_interleave(2)[:-1]
        return StepTable.build(process, Path(rows.f[twice], rows.t[twice], rows.p[twice]), rows.a[twice], rows.b[twice])


def schedule_of(name, process):
    return partial(LogSNR, betas=process.betas) if name == "logsnr" else SCHEDULES[name]


def brute_force(solver, schedule, process, highest):
    """Every number of evaluations up to this tau, with its smallest tau, counted in the tables themselves."""
    found = {}
    for tau in range(highest, 0, -1):
        steps = schedule(tau=tau)(process.num_steps)
        if len(steps) > 1 or solver.to_data:
            found[solver.table(process, steps).nfe] = tau
    return found


def require_as_found(solver, schedule, process, nfe, found):
    if nfe in found:
        assert reach(solver, schedule, process, nfe) == found[nfe]
        return
    nearest = [*sorted(n for n in found if n < nfe)[-1:], *sorted(n for n in found if n > nfe)[:1]]
    said = " and ".join(f"{n} (tau={found[n]})" for n in nearest)
    said = (
        f"nfe={nfe} cannot be reached with schedule={schedule(tau=1).name} and solver={solver.name}: the nearest "
        f"{'are' if len(nearest) == 2 else 'is'} {said}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        reach(solver, schedule, process, nfe)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_nfe_up_to_60_is_reached_by_the_smallest_tau_or_refused_with_its_neighbours(name, process):
    schedule = schedule_of(name, process)
    found = brute_force(DDIM(), schedule, process, 999 if name == "uniform" else 200)
    assert max(found) > 80  # so no tau above costs as little
    for nfe in range(1, 61):
        require_as_found(DDIM(), schedule, process, nfe, found)


@pytest.mark.parametrize("make", [noise.linear, noise.cosine])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [2, 3, 20, 50, 100])
def test_a_short_process_has_its_most_evaluations_and_more_are_refused(name, T, make):
    """With cosine noise LogSNR visits, at some taus, one step less than at the tau before."""
    process = ForwardProcess(make(T))
    schedule = schedule_of(name, process)
    found = brute_force(DDIM(), schedule, process, T - 1 if name == "uniform" else T)
    for nfe in range(1, T + 3):
        require_as_found(DDIM(), schedule, process, nfe, found)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    "solver",
    [DPMSolverPP(order=3), AdamsBashforth(), DDIM(eta=1.0), DDIM(to_data=False), TwoStage(), TwoStage(to_data=False)],
    ids=["dpm_solver_pp", "adams_bashforth", "eta", "not_to_data", "two_stage", "two_stage_not_to_data"],
)
def test_what_a_step_costs_is_the_solvers_own(solver, name):
    process = ForwardProcess(noise.linear(20))
    schedule = schedule_of(name, process)
    found = brute_force(solver, schedule, process, 19 if name == "uniform" else 20)
    for nfe in range(1, 42):
        require_as_found(solver, schedule, process, nfe, found)


@pytest.mark.parametrize("nfe", [0, -1, 2.0, True, "20", None])
def test_nfe_is_a_count(nfe, process):
    with pytest.raises(
        ValueError, match=r"^nfe=.* is not allowed: nfe (is an integer of at least 1|must be an integer)\.$"
    ):
        reach(DDIM(), Exp, process, nfe)


def test_nfe_wins_over_the_tau_of_a_schedule_and_of_an_experiment(composed):
    for words in (["schedule=exp"], ["schedule=logsnr"], ["experiment=smoke"], ["solver=dpm_solver_pp"]):
        config = composed(*words, "nfe=8")
        process = ForwardProcess(noise.linear(config.noise.num_steps))
        choose_taus(config, process)
        (cell,) = build_cells(config, process, [], [])
        assert cell.table.nfe == 8
        assert cell.settings["tau"] == config.tau == config.schedule.tau


def test_listed_steps_must_cost_it(composed, process):
    listed = ["experiment=smoke", "schedule=custom", "schedule.timesteps=[0,10,19]"]  # the experiment sets a tau
    config = composed(*listed, "nfe=3")
    choose_taus(config, process)
    assert config.tau is None
    with pytest.raises(ValueError, match=r"^nfe=4 is not allowed: the schedule lists its own steps, which cost 3; "):
        choose_taus(composed(*listed, "nfe=4"), process)


def test_a_grid_of_evaluations(composed, process):
    words = ["schedule=exp", "evaluation.nfes=[10,20]", "evaluation.schedules={uniform: null, quad: [7]}"]
    config = composed(*words, "evaluation.etas=[0.0]")
    choose_taus(config, process)
    grid = config.evaluation
    cells = build_cells(config, process, grid.taus, grid.etas, grid.schedules)
    found = [(cell.settings["schedule"], cell.table.nfe) for cell in cells if not cell.own]
    assert found == [("exp", 10), ("exp", 20), ("uniform", 10), ("uniform", 20), ("quad", 7)]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


def rows_of(folder):
    with (folder / "evaluation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def train(outputs, *words):
    return run("logger=none", f"paths.outputs={outputs}", "schedule=exp", *words)


@pytest.fixture(scope="module")
def single(outputs):
    return train(outputs, "nfe=10", "eta=0.0", "evaluation.nfes=[3]", "evaluation.etas=[0.0]")


def test_train_takes_it_and_records_the_tau(single):
    assert single.returncode == 0, single.stderr
    rows = rows_of(run_folder(single))
    assert [(row["cell"], row["tau"], row["nfe"]) for row in rows] == [
        ("ddim-exp-tau2-eta0.0", "2", "3"),
        ("ddim-exp-tau11-eta0.0", "11", "10"),
    ]
    assert "nfe=10" in (run_folder(single) / "report.html").read_text()


def test_a_sweep_takes_it_and_runs_no_job_twice(outputs, single, tmp_path):
    words = ["-m", "nfe=3,5", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = train(outputs, *words)
    assert done.returncode == 0, done.stderr
    assert sorted((row["nfe"], row["tau"]) for row in rows_of(tmp_path / "sweep")) == [("3", "2"), ("5", "4")]
    jobs = [tmp_path / "sweep" / str(job) / "evaluation.csv" for job in range(2)]
    before = [path.stat().st_mtime_ns for path in jobs]
    again = python("train.py", f"resume={tmp_path / 'sweep'}")
    assert again.returncode == 0, again.stderr
    assert [path.stat().st_mtime_ns for path in jobs] == before


def test_a_finished_model_takes_it(outputs, single, tmp_path):
    (model,) = (outputs / "models").iterdir()
    words = [f"run={model.name}", f"paths.outputs={outputs}", "n=2"]
    ahead = ["solver=dpm_solver_pp", "nfe=10", "seed=7", f"out={tmp_path / 'samples'}"]
    done = python("scripts/sample.py", *words, *ahead)
    assert done.returncode == 0, done.stderr
    assert "dpm_solver_pp2-exp-tau11-eta0.0 (10 evaluations each)" in " ".join(done.stdout.split())
    net, process = load(model)
    table = solvers.DPMSolverPP().table(process, Exp(11)(20))
    expected = engine.sample(net, table, 2, (1, 28, 28), seed=7)
    np.testing.assert_allclose(np.load(tmp_path / "samples" / "samples.npz")["samples"], expected.numpy(), atol=1e-4)
    # its own tau, 50, is too large for 20 steps
    back = ["schedule=quad", "nfe=5", "taus=[3]", "exact=[]", f"out={tmp_path / 'back'}"]
    done = python("scripts/reconstruct.py", *words, *back)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nfe=10", "tau=7"], "nfe=10 and tau=7 must not be given together: leave one of them out."),
        (["-m", "nfe=10,3", "tau=5"], "nfe=10 and tau=5 must not be given together: leave one of them out."),
        (
            ["evaluation.nfes=[10]", "evaluation.taus=[5]"],
            "evaluation.nfes=[10] and evaluation.taus=[5] must not be given together: leave one of them out.",
        ),
        (["evaluation.nfes=10"], "evaluation.nfes=10 is not allowed: it is null or a list such as [1,2], not empty."),
        (["nfe=ten"], "nfe='ten' is not allowed: it is an integer of at least 1."),
        (
            ["nfe=9", "schedule=uniform"],
            "nfe=9 cannot be reached with schedule=uniform and solver=ddim: the nearest are 8 (tau=3) and 11 (tau=2).",
        ),
    ],
)
def test_refusals(words, sentence, tmp_path):
    done = train(tmp_path, *words)
    assert done.returncode == 1
    assert f"error: {sentence}" in done.stderr.splitlines()
    assert not (tmp_path / "models").exists()


def test_the_composed_configuration_shows_it(tmp_path):
    assert "nfe: 10" in train(tmp_path, "nfe=10", "--cfg", "job").stdout.splitlines()
    for command in ("sample", "evaluate", "interpolate", "reconstruct"):
        shown = python(f"scripts/{command}.py", "run=any", "nfe=10", "--cfg", "job").stdout
        assert "nfe: 10" in shown.splitlines()

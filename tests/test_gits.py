"""schedule=gits: the dynamic programme, the costs that it adds up, what the steps are worth, where they are kept."""

import csv
import itertools
import logging
import re

import numpy as np
import pytest
import torch
from shell import ROOT, python, run, run_folder

from skipstone import EDM, ForwardProcess, engine, load, noise, rng, schedules, solvers
from skipstone.fitting import gits
from skipstone.schedules.gits import Costs, cheapest, teacher_times

PROCESS = ForwardProcess(noise.linear())
SHAPE = (1, 4, 4)
MODES = (2 * torch.rand(6, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1) * 0.9
SPREAD = 0.15


def mixture(x, t):
    """The exact eps of a mixture of six Gaussians."""
    alpha_bar = PROCESS.alpha_bar(t)[:, None]
    signal, level, at = alpha_bar.sqrt(), 1 - alpha_bar, x.flatten(1).double()
    variance = alpha_bar * SPREAD**2 + level
    far = (at[:, None] - signal[:, :, None] * MODES).square().sum(dim=2)
    mean = torch.softmax(-far / (2 * variance), dim=1) @ MODES
    x0 = mean + signal * SPREAD**2 / variance * (at - signal * mean)
    return ((at - signal * x0) / level.sqrt()).view_as(x).to(x.dtype)


@pytest.fixture(scope="module")
def costs():
    return gits.measure(mixture, PROCESS, SHAPE)


@pytest.mark.parametrize("gamma", [0.8, 1.0, 1.15])
def test_the_programme_finds_the_cheapest_of_all_paths(gamma):
    jumps = torch.from_numpy(np.random.default_rng(0).uniform(size=(9, 9)))
    jumps = jumps.where(torch.ones(9, 9).triu(1) > 0, torch.inf)
    for count in range(1, 9):
        paths = [(0, *between, 8) for between in itertools.combinations(range(1, 8), count - 1)]
        price = {
            path: sum(gamma**k * float(jumps[i, j]) for k, (i, j) in enumerate(itertools.pairwise(path)))
            for path in paths
        }
        assert tuple(cheapest(jumps, count, gamma)) == min(paths, key=price.get)


@pytest.mark.parametrize("process", [PROCESS, EDM()], ids=["ddpm", "edm"])
def test_the_costs_are_those_of_a_gaussians_own_trajectories(process):
    """Of Gaussian data y(r) = μ + (y − μ) √(s² + r²)/√(s² + R²) in closed form, and so is each DDIM step from there."""
    mean, spread = 0.3, 0.5

    def eps(x, t):
        alpha_bar = process.alpha_bar(t).view(-1, 1, 1, 1)
        signal, level = alpha_bar.sqrt(), 1 - alpha_bar
        return (level.sqrt() * (x - signal * mean) / (alpha_bar * spread**2 + level)).to(x.dtype)

    costs = gits.measure(eps, process, SHAPE, samples=100, seed=3)
    t = torch.tensor(costs.times)
    assert costs.times == teacher_times(process)
    assert (costs.times[0], costs.times[-2:]) == (999, (0, -1))
    r = torch.sqrt(1 / process.alpha_bar(t) - 1)
    root = torch.sqrt(spread**2 + r**2)
    length = root / root[0]  # of y − μ, in that at the start
    slope = length * r / root**2  # dy/dr = eps
    jump = (length[:, None] + slope[:, None] * (r[None, :] - r[:, None]) - length[None, :]).abs()
    jump = jump * process.alpha_bar(t).sqrt()[None, :]
    index = torch.arange(1 << 31, (1 << 31) + 100)
    z = rng.normal(3, rng.Stream.START, index, SHAPE, dtype=torch.float64) * process.start_scale(999)
    far = (z / process.alpha_bar(999).sqrt() - mean).flatten(1).norm(dim=1).mean()
    upper = torch.ones_like(jump).triu(1) > 0
    long = upper & (jump > 0.05 * jump[upper].max())  # shorter ones are as small as the teacher's own error
    torch.testing.assert_close(costs.jumps[long], (far * jump)[long], rtol=0.1, atol=0)
    assert (costs.jumps[~upper] == torch.inf).all()


def test_they_are_the_same_to_the_last_bit_every_time(costs):
    again = gits.measure(mixture, PROCESS, SHAPE)
    assert torch.equal(again.jumps, costs.jumps)
    assert not torch.equal(gits.measure(mixture, PROCESS, SHAPE, seed=1).jumps, costs.jumps)


@pytest.mark.parametrize("nfe", [5, 7, 11])
@pytest.mark.parametrize("solver", [solvers.DDIM(), solvers.AdamsBashforth(3)], ids=lambda solver: solver.name)
def test_its_steps_have_less_error_than_uniform_and_karras(costs, solver, nfe):
    fine = engine.sample(mixture, solvers.DPMSolverPP(order=2).table(PROCESS, range(1000)), 200, SHAPE)

    def error(schedule):
        table = solver.table(PROCESS, schedule(1000))
        assert table.nfe == nfe
        return float((engine.sample(mixture, table, 200, SHAPE) - fine).square().mean().sqrt())

    ours = error(schedules.GITS(nfe, costs))
    for other in (schedules.Linspace(nfe), schedules.Trailing(nfe), schedules.TimeUniform(nfe)):
        assert ours < error(other)
    assert ours < error(schedules.Karras(nfe, PROCESS))


def test_what_it_visits(costs):
    for tau in (1, 2, 5, 30):
        steps = schedules.GITS(tau, costs)(1000)
        assert len(steps) == tau
        assert list(steps) == sorted(set(steps))
        assert steps[-1] == 999
    every = schedules.GITS(1000, costs)(1000)
    assert every == costs.times[-2::-1]
    assert schedules.GITS(5, Costs.even(PROCESS))(1000) == costs.times[-2::-1][11::12]


def test_what_cannot_be_is_refused(costs):
    with pytest.raises(ValueError, match=r"tau=0 is not allowed with schedule=gits"):
        schedules.GITS(0, costs)(1000)
    with pytest.raises(ValueError, match=r"these costs are of a process of 1000 steps, not of 100: measure again"):
        schedules.GITS(5, costs)(100)
    with pytest.raises(ValueError, match=r"schedule=gits suits a model: give it costs="):
        schedules.GITS(5)(1000)
    with pytest.raises(ValueError, match=r"schedule.gamma=nan is not allowed"):
        schedules.GITS(5, costs, gamma=float("nan"))


def test_costs_are_kept_with_what_they_belong_to(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    calls = []

    def model(x, t):
        calls.append(len(x))
        return mixture(x, t)

    form = {"weights": "a", "precision": "32-true"}
    first = gits.KeptCosts(tmp_path, form, samples=10).ensure(model, PROCESS, SHAPE)
    made = len(calls)
    assert made == len(first.times) - 1
    again = gits.KeptCosts(tmp_path, form, samples=10).ensure(model, PROCESS, SHAPE)
    assert len(calls) == made
    assert torch.equal(again.jumps, first.jumps)
    assert again.times == first.times
    (path,) = tmp_path.iterdir()
    for other in ({"weights": "b"}, {"precision": "bf16-mixed"}):
        gits.KeptCosts(tmp_path, form | other, samples=10).ensure(model, PROCESS, SHAPE)
        made += len(first.times) - 1
        assert len(calls) == made
    path.write_bytes(path.read_bytes()[:-9])
    gits.KeptCosts(tmp_path, form, samples=10).ensure(model, PROCESS, SHAPE)
    assert len(calls) > made


def test_it_is_typed_like_any_schedule(tmp_path):
    outputs = f"paths.outputs={tmp_path}"
    further = "evaluation.schedules={linspace: [3], gits: [2]}"
    done = run(
        "logger=none", "schedule=gits", "nfe=5", "evaluation.taus=[3]", "evaluation.etas=[0.0]", further, outputs
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "models").glob("*/")
    with (run_folder(done) / "evaluation.csv").open() as file:
        rows = {row["cell"]: row for row in csv.DictReader(file)}
    gits_cells = {f"ddim-gits-tau{tau}-eta0.0" for tau in (2, 3, 5)}
    assert set(rows) == gits_cells | {"ddim-linspace-tau3-eta0.0"}
    assert rows["ddim-gits-tau5-eta0.0"]["nfe"] == "5"
    kept = folder / "gits-seed0.safetensors"
    assert kept.is_file()
    watched = [path.name for path in (run_folder(done) / "training").rglob("*.png")]
    assert watched
    assert all("linspace" in name for name in watched), watched

    net, process = load(folder)
    costs = gits.measure(net, process, (1, 28, 28))
    before = kept.read_bytes()
    words = [
        f"run={folder.name}",
        "schedule=gits",
        "nfe=5",
        "solver=dpm_solver_pp",
        "n=2",
        f"out={tmp_path}/s",
        outputs,
    ]
    done = python("scripts/sample.py", *words)
    assert done.returncode == 0, done.stderr
    assert "measuring" not in done.stdout + done.stderr
    table = solvers.DPMSolverPP().table(process, schedules.GITS(5, costs)(process.num_steps))
    expected = engine.sample(net, table, 2, (1, 28, 28), seed=0)
    np.testing.assert_allclose(np.load(tmp_path / "s" / "samples.npz")["samples"], expected.numpy(), atol=1e-4)
    assert kept.read_bytes() == before

    kept.unlink()
    words = ["schedule=gits", "taus=[2,3]", "exact=[]", "tau=3", "n=2", f"out={tmp_path}/r", outputs]
    done = python("scripts/reconstruct.py", f"run={folder.name}", *words)
    assert done.returncode == 0, done.stderr
    assert kept.read_bytes() == before  # measured again, to the last bit

    (example,) = re.findall(r"```python\n(.*?gits.*?)```", (ROOT / "docs" / "solvers.md").read_text(), re.DOTALL)
    space = {}
    exec(example.replace("outputs/models/<key>", str(folder)), space)
    assert space["timesteps"] == schedules.GITS(5, costs)(process.num_steps)
    assert space["x"].shape == (64, 1, 28, 28)

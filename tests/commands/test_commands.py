"""The commands on a finished model, as a user calls them."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from shell import SHELL, python

from skipstone import ForwardProcess, engine, load, noise, schedules, solvers
from skipstone.store.models import ModelStore


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, composed):
    """A store with one small model, whose weights are random but not the zeros that a fresh one predicts with."""
    folder = tmp_path_factory.mktemp("outputs")
    noise = {"_target_": "skipstone.noise.linear", "num_steps": 100, "beta_1": 1e-3, "beta_T": 0.2}
    model = {
        "_target_": "skipstone.VelocityUNet",
        "betas": noise,
        "image_size": 28,
        "channels": 1,
        "base": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [7],
        "patch": 2,
    }

    def build(_):
        torch.manual_seed(0)
        net = instantiate(OmegaConf.create(model))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        return net

    data = {"name": "mnist5k", "fingerprint": instantiate(composed("dataset=mnist5k").dataset).fingerprint}
    ModelStore(folder).ensure({"dataset": data, "model": model, "noise": noise}, build)
    return folder


def run(command, outputs, *arguments, **how):
    (key,) = (path.name for path in (outputs / "models").iterdir())
    return python(f"scripts/{command}.py", f"run={key}", f"paths.outputs={outputs}", *arguments, **how)


def test_sample(outputs, tmp_path):
    out = tmp_path / "out"
    done = run(
        "sample", outputs, "tau=5", "eta=1.0", "n=3", "seed=7", "singles=true", "gif=true", f"out={out}", **SHELL
    )
    assert done.returncode == 0, done.stderr
    net, process = load(next((outputs / "models").iterdir()))
    table = solvers.DDIM(eta=1.0).table(process, schedules.Exp(5)(100))
    expected = engine.sample(net, table, 3, (1, 28, 28), seed=7)
    np.testing.assert_allclose(np.load(out / "samples.npz")["samples"], expected.numpy(), atol=1e-4)
    adm = np.load(out / "samples_adm.npz")["arr_0"]
    assert (adm.dtype, adm.shape) == (np.uint8, (3, 28, 28, 1))
    np.testing.assert_array_equal(adm[0, :, :, 0], np.asarray(Image.open(out / "singles" / "00000.png").convert("L")))
    assert [path.name for path in sorted((out / "singles").iterdir())] == ["00000.png", "00001.png", "00002.png"]
    assert Image.open(out / "singles" / "00000.png").size == (28, 28)
    assert Image.open(out / "steps.gif").n_frames == table.nfe


def test_interpolate(outputs, tmp_path):
    done = run("interpolate", outputs, "tau=4", "rows=2", "columns=3", f"out={tmp_path / 'out'}", **SHELL)
    assert done.returncode == 0, done.stderr
    width, height = Image.open(tmp_path / "out" / "grid.png").size
    assert width > height


def test_reconstruct(outputs, tmp_path):
    arguments = ["n=4", "taus=[5,20,80]", "exact=[20]", "tau=20", f"out={tmp_path / 'out'}"]
    done = run("reconstruct", outputs, *arguments, **SHELL)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "reconstruction.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    errors = [float(row["mse"]) for row in rows if row["method"] == "encode"]
    assert {row["solver"] for row in rows} == {"ddim"}
    assert errors == sorted(errors, reverse=True)
    (exact,) = (float(row["mse"]) for row in rows if row["method"] == "exact")
    assert exact < errors[1] / 100
    assert (tmp_path / "out" / "reconstruction.png").stat().st_size > 0
    assert (tmp_path / "out" / "rows.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("solver", "dtype", "rms", "largest"),
    [("belm", "float32", 1e-5, 1e-4), ("belm", "float64", 1e-10, 1e-10), ("edict", "float64", 1e-10, 1e-10)],
)
def test_images_come_back_without_a_fixed_point(outputs, tmp_path, solver, dtype, rms, largest):
    words = ["schedule=linspace", f"solver={solver}", f"dtype={dtype}", "n=4", "taus=[10]", "exact=[10,20,50]"]
    done = run("reconstruct", outputs, *words, "tau=10", f"out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "reconstruction.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "explicit"]
    each = 2 if solver == "edict" else 1
    assert [int(row["nfe"]) for row in rows] == [10 * each, 20 * each, 50 * each]
    for row in rows:
        assert int(row["evaluations"]) == 2 * int(row["nfe"]) - (solver == "belm")  # its first row is one way
        assert float(row["rms"]) < rms
        assert float(row["max"]) < largest
        assert 0 < float(row["latents_off"]) < 10
    if solver == "edict":  # its latents come near to those of a fine solution, the finer the nearer
        assert float(rows[2]["latents_off"]) < float(rows[0]["latents_off"])


def test_reconstruct_takes_images_of_every_class(outputs, tmp_path):
    """Of a folder whose files lie one class after the other: here black ones, then white ones."""
    for part, kinds in {"train": ("a", "b"), "test": ("a", "b")}.items():
        for colour, kind in enumerate(kinds):
            (tmp_path / "photos" / part / kind).mkdir(parents=True)
            for i in range(20):
                Image.new("L", (28, 28), 255 * colour).save(tmp_path / "photos" / part / kind / f"{i}.png")
    data = ["dataset=folder", f"dataset.root={tmp_path / 'photos'}", "dataset.image_size=28", "dataset.channels=1"]
    done = run("reconstruct", outputs, *data, "n=8", "taus=[5]", "exact=[]", "tau=5", f"out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    shown = np.asarray(Image.open(tmp_path / "out" / "rows.png").convert("L"))
    assert {0, 255} <= set(shown[: 28 + 4].ravel().tolist())


def test_slerp_stays_on_the_sphere():
    a, b = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    path = engine.slerp(a, b, 5)
    torch.testing.assert_close(path[[0, -1]], torch.stack([a, b]))
    unit = engine.slerp(a / a.norm(), b / b.norm(), 5)
    torch.testing.assert_close(unit.flatten(1).norm(dim=1), torch.ones(5, dtype=torch.float64))
    angles = torch.arccos((unit[1:] * unit[:-1]).flatten(1).sum(dim=1))
    torch.testing.assert_close(angles, angles[:1].expand(4))


FEW = ["metrics.features=8", "metrics.classifier_steps=10"]


def test_evaluate(outputs, tmp_path):
    out = tmp_path / "out"
    grid = ["evaluation.taus=[3,6]", "evaluation.etas=[0.0,1.0]", "evaluation.schedules={uniform: [40]}"]
    done = run("evaluate", outputs, "tau=3", *grid, "evaluation.images=12", *FEW, f"out={out}", **SHELL)
    assert done.returncode == 0, done.stderr
    with (out / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    cells = [(row["schedule"], row["tau"], row["eta"]) for row in rows]
    assert cells[:4] == [("exp", tau, eta) for eta in ("0.0", "1.0") for tau in ("3", "6")]
    assert cells[4:] == [("uniform", "40", eta) for eta in ("0.0", "1.0")]
    assert all(float(row["fd_classifier_floor"]) > 0 for row in rows)
    assert [row["solver_rmse"] == "" for row in rows] == [row["eta"] == "1.0" for row in rows]
    assert float(rows[1]["solver_rmse"]) < float(rows[0]["solver_rmse"])
    assert all(row["seconds"] == row["images_per_second"] == "" for row in rows)  # nobody timed a cell of the grid
    assert "All 6 cells were sampled in one batch, which took" in (out / "report.html").read_text()
    assert "All 6 cells were sampled in one batch, which took" in " ".join(done.stdout.split())
    for name in ("curves.png", "contact.png", "report.html", f"samples/{rows[-1]['cell']}.png"):
        assert (out / name).stat().st_size > 0, name
    assert "python scripts/evaluate.py run=mnist5k-" in (out / "report.html").read_text()


def test_study(outputs, tmp_path):
    out = tmp_path / "out"
    few = ["n=200", "floors=5", "repeats=1", "taus=[2,4]", "tau=2", "etas=[0.0,1.0]", "dataset=mnist5k", *FEW]
    done = run("study", outputs, *few, f"out={out}", **SHELL)
    assert done.returncode == 0, done.stderr
    with (out / "study.csv").open(newline="") as file:
        rows = {row["series"]: row for row in csv.DictReader(file)}
    assert list(rows) == [
        "noise", "blur", "dropped modes", "repeats", "memorised",
        "NFE at η = 0", "NFE at η = 1", "η at NFE 3", "η at NFE 5",
    ]  # fmt: skip
    assert float(rows["blur"]["fd_random"].split(",")[0]) > 0.8
    assert rows["memorised"]["too_near"].endswith("from 0.2")
    assert (out / "study.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["solver=afs", "nfe=6"], ["evaluations +6 ", "left out +order conditions", "left out +the order: the row"]),
        (["solver=table", "solver.path=t.json", "schedule=custom", "schedule.timesteps=[]", "solver.clip_x0=true"],
         ["evaluations +3 ", "left out +clipping", "left out +the order: a table from a file"]),
    ],
    ids=["afs", "table"],
)  # fmt: skip
def test_the_command_prints_what_can_be_shown(tmp_path, words, says):
    process = ForwardProcess(noise.linear())
    solvers.save_table(solvers.DDIM(clip_x0=True).table(process, (0, 500, 999)), tmp_path / "t.json")
    words = [word.replace("t.json", str(tmp_path / "t.json")) for word in words]
    done = python("scripts/solver.py", *words, f"out={tmp_path / 'out'}", f"paths.outputs={tmp_path}")
    assert done.returncode == 0, done.stderr
    for line in says:
        assert re.search(line, done.stdout), done.stdout
    assert json.loads((tmp_path / "out" / "proof.json").read_text())["convergence"] is None
    assert (tmp_path / "out" / "coefficients.png").stat().st_size > 10_000

"""The real command, end to end."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from PIL import Image
from shell import ENVIRONMENT, ROOT, SHELL, python, run, run_folder, summary_of

COLUMNS = [
    "cell",
    "schedule",
    "solver",
    "sigma",
    "to_data",
    "clip_x0",
    "tau",
    "eta",
    "nfe",
    "images",
    "solver_rmse",
    "solver_rmse_median",
    "solver_rmse_std",
    "fd_random",
    "fd_random_std",
    "kid_random",
    "kid_random_std",
    "fd_classifier",
    "fd_classifier_std",
    "kid_classifier",
    "kid_classifier_std",
    "fd_random_floor",
    "kid_random_floor",
    "fd_classifier_floor",
    "kid_classifier_floor",
    "seconds",
    "images_per_second",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def first(outputs):
    """One training and sampling with the default logger, offline."""
    done = run(f"paths.outputs={outputs}", "schedule=exp", "eta=0.5", **SHELL)
    assert done.returncode == 0, done.stderr
    return done


def test_a_run_leaves_every_file_that_the_design_names(outputs, first):
    folder = run_folder(first)
    assert folder.parent.parent == outputs / "runs"
    pictures = ("curves.png", "contact.png", "training_curve.png")
    for name in ("train.log", "evaluation.csv", *pictures, "report.html", ".hydra/config.yaml"):
        assert (folder / name).stat().st_size > 0, name
    (model,) = (outputs / "models").iterdir()
    for name in ("config.yaml", "last.ckpt", "ema.safetensors", "metrics.csv", "DONE"):
        assert (model / name).stat().st_size > 0, name
    with (folder / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert [(row["tau"], row["eta"]) for row in rows] == [
        ("2", "0.0"),
        ("4", "0.0"),
        ("2", "1.0"),
        ("4", "1.0"),
        ("4", "0.5"),
    ]
    assert all(float(row["fd_random_floor"]) > 0 for row in rows)
    assert [row["solver_rmse"] == "" for row in rows] == [False, False, True, True, True]
    for row in rows:
        assert Image.open(folder / "samples" / f"{row['cell']}.png").size[0] >= 400 // 2
    assert len(list((folder / "training").glob("*.png"))) == 4 * 2  # two cells at each of four validations
    assert len(list((folder / "wandb").glob("offline-run-*/*.wandb"))) == 2  # training and sampling, one run each
    page = (folder / "report.html").read_text()
    assert page.count("data:image/webp;base64,") > 3 * len(rows)  # a grid and two films a cell, and more
    assert not re.search(r"(src|href)=\"http", page)


def test_the_dashboard_reads_as_one_thing(first):
    """Of the offline run of the sampling: what W&B's own reader and the uploaded files say."""
    runs = {}
    for path in (run_folder(first) / "wandb").glob("offline-run-*"):
        assert f"W&B keeps this run offline in {path};" in first.stdout
        summary, said = summary_of(path)
        assert "finished (exit code 0)" in said
        runs["best/cell" in said] = path, summary, said
    sampled, summary, said = runs[True]
    assert "sample exp tau=4 eta=0.5" in said.splitlines()[0]
    assert summary["best/cell"].startswith("ddim-exp-tau")
    assert float(summary["best/fd_classifier"]) == pytest.approx(
        min(float(value) for name, value in summary.items() if re.fullmatch(r"cell/.*/fd_classifier", name))
    )
    assert float(summary["floor/fd_random"]) > 0
    for name in ("nfe", "fd_classifier", "curve/fd_classifier_table", "cell/ddim-exp-tau4-eta0.5/kid_random"):
        assert name in summary, name
    (table,) = (json.loads(path.read_text()) for path in sampled.glob("files/media/table/cells_*.table.json"))
    assert table["columns"][:3] == ["samples", "cell", "schedule"]
    assert len(table["data"]) == 5
    assert len(list(sampled.glob("files/media/images/samples/*.png"))) == 5
    assert len(list(sampled.parent.glob("artifacts/staging/*"))) > 5  # the table's thumbnails, kept for an upload
    record = next(sampled.glob("*.wandb")).read_bytes()
    for flat in (b"solver.sigma", b"evaluation.training.images", b"mnist5k-"):  # settings by name, the group
        assert flat in record, flat
    _, trained, _ = runs[False]
    assert "val/loss" in trained
    assert any(name.startswith("val/loss_t/") for name in trained)


def test_a_second_run_with_another_tau_only_samples(outputs, first):
    (model,) = (outputs / "models").iterdir()
    before = (model / "ema.safetensors").stat().st_mtime_ns
    done = run(f"paths.outputs={outputs}", "schedule=uniform", "tau=3", "eta=1.0", "logger=csv")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (outputs / "models").iterdir()] == [model.name]
    assert (model / "ema.safetensors").stat().st_mtime_ns == before
    assert not (run_folder(done) / "training").exists()
    assert (run_folder(done) / "sample" / "metrics.csv").is_file()
    assert run_folder(done) != run_folder(first)


def test_runs_that_differ_in_their_evaluation_alone_store_the_same_weights(outputs, first, tmp_path):
    done = run(f"paths.outputs={tmp_path}", "schedule=uniform", "tau=2", "evaluation.images=12", "logger=none")
    assert done.returncode == 0, done.stderr
    weights = [next((folder / "models").glob("*/ema.safetensors")) for folder in (outputs, tmp_path)]
    assert weights[0].parent.name == weights[1].parent.name
    assert weights[0].read_bytes() == weights[1].read_bytes()


# Runs train.py as a script and prints, last of all, which of the named modules it has imported.
PROBE = """
import atexit, runpy, sys
names, sys.argv = sys.argv[1].split(","), ["train.py", *sys.argv[2:]]
atexit.register(lambda: print("imported:", [name for name in names if name in sys.modules]))
runpy.run_path("train.py", run_name="__main__")
"""


def test_wandb_is_imported_only_when_chosen(tmp_path):
    arguments = ["experiment=smoke", "logger=csv", f"paths.outputs={tmp_path}", "trainer.max_steps=1"]
    done = python("-c", PROBE, "wandb", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported: []"


@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"]], ids=" ".join)
def test_help_and_cfg_do_without_torch(flags):
    done = python("-c", PROBE, "torch,lightning", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported: []"
    assert "schedule" in done.stdout


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("~/photos", f"{os.path.expanduser('~')}/photos"),
        ("a folder/größe=3", "a folder/größe=3"),
        ("'quoted, it is'", "quoted, it is"),
        ("photos (1), it's [2024] {x} cost $5", "photos (1), it's [2024] {x} cost $5"),
    ],
)
def test_a_path_is_read_as_it_is_typed(given, read):
    done = python("train.py", f"paths.outputs={given}", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["paths"]["outputs"] == read


def test_help_may_be_cut_off():
    """Whoever reads it has gone before the first line, so that no buffer hides it."""
    there, here = os.pipe()
    os.close(there)
    done = subprocess.run(
        [sys.executable, "train.py", "--help"],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=here,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(here)
    assert done.stderr == ""


def test_a_finished_model_is_opened_sampled_and_reported_without_torchvision_and_lightning():
    """Each of which takes longer to import than torch."""
    tell = "import sys, skipstone.data, skipstone.commands.finished, skipstone.commands.evaluate, skipstone.report.page"
    done = python("-c", f"{tell}; print({{'torchvision', 'lightning'}} & set(sys.modules))")
    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.parametrize("wrong", ["tau=0", "training.decay=linear", "dataset.root=nowhere", "schedule.tau=7"])
def test_what_is_refused_is_refused_before_the_long_imports(wrong, tmp_path):
    arguments = ["experiment=smoke", "logger=csv", f"paths.outputs={tmp_path}", wrong]
    arguments += ["dataset=mnist"] if "root" in wrong else []
    done = python("-c", PROBE, "lightning,torchmetrics", *arguments)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "imported: []"


def test_a_training_that_is_told_to_stop_says_so_and_goes_on_later(tmp_path):
    arguments = ["experiment=smoke", "logger=none", f"paths.outputs={tmp_path}", "trainer.max_steps=2000"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("models/*/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "the same command continues from the last checkpoint" in said
    assert not list(tmp_path.glob("models/*/DONE"))


def test_a_command_that_is_told_to_stop_before_its_training_has_begun_says_so():
    tell = "import signal; from skipstone.commands.cli import main; main(lambda: signal.raise_signal(signal.SIGTERM))"
    done = python("-c", tell)
    assert done.returncode == 130
    assert done.stderr.startswith("interrupted; the same command continues")


@pytest.mark.parametrize("outputs", ["5", "true", "''", "[a]"])
@pytest.mark.parametrize("flags", [[], ["-m"]], ids=["run", "sweep"])
def test_what_is_no_folder_for_outputs_is_refused_before_a_folder_is_made(outputs, flags, tmp_path):
    done = python(ROOT / "train.py", *flags, f"paths.outputs={outputs}", cwd=tmp_path)
    assert done.returncode == 1
    assert re.match(r"error: paths\.outputs(=\S+ is not allowed: it is a path; | is empty: )", done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [12, 60, 150])
def test_a_small_folder_is_trained_on_and_the_page_says_which_distances_are_left_out(tmp_path, count):
    (tmp_path / "photos").mkdir()
    for i in range(count):
        Image.effect_noise((40, 32), 60 + i).save(tmp_path / "photos" / f"{i}.png")
    words = ["dataset=folder", f"dataset.root={tmp_path}/photos", "metrics.features=64", "logger=none"]
    done = run(f"paths.outputs={tmp_path}/outputs", *words)
    assert done.returncode == 0, done.stderr
    held_out = max(2, round(count / 10))
    said = "fd_random is left out: a covariance of 64 features needs more images than that, both to train on and to "
    said += f"compare, and there are {count - held_out} and {min(16, held_out)}."
    assert (done.stdout + done.stderr).count(said) == 1
    assert said in (run_folder(done) / "report.html").read_text()
    with (run_folder(done) / "evaluation.csv").open(newline="") as file:
        (row, *_) = csv.DictReader(file)
    assert "fd_random" not in row
    assert math.isfinite(float(row["kid_random"]))


def test_without_metrics_a_noisy_cell_alone_still_has_its_report(tmp_path):
    done = run(f"paths.outputs={tmp_path}", "metrics=none", "logger=none", "eta=1.0", "evaluation.grid=false")
    assert done.returncode == 0, done.stderr
    with (run_folder(done) / "evaluation.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert not any(name.startswith(("fd", "kid")) for name in row)
    assert row["solver_rmse"] == ""
    assert not (tmp_path / "statistics").exists()

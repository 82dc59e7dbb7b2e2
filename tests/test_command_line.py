"""The real command, end to end, and what bad input gets."""

import csv
import json
import re
import signal
import subprocess
import sys
import time

import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from shell import ENVIRONMENT, ROOT, python, run, run_folder, summary_of

import train
from skipstone.command import main

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
    "fd_random",
    "kid_random",
    "kid_random_std",
    "fd_classifier",
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
    done = run(f"paths.outputs={outputs}", "schedule=exp", "eta=0.5")
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


BAD = [
    (["schedule=expo"], r"schedule=expo is unknown: choose one of custom, exp, leading, .*uniform"),
    (
        ["solver=euler"],
        r"solver=euler is unknown: choose one of adams_bashforth, ddim, dpm_solver_pp, probability_flow",
    ),
    (["dataset=mnsit"], r"dataset=mnsit is unknown: choose one of cifar10, .*mnist5k"),
    (["tua=7"], r"there is no key tua \(in tua=7\): did you mean .*tau"),
    (["trainer.max_step=7"], r"no key trainer.max_step .*did you mean trainer.max_steps"),
    (["tau=0"], r"tau=0 is not allowed with schedule=uniform: tau is a stride there, an integer in 1 \.\.\. 19"),
    (["tau=20"], r"tau=20 .*1 \.\.\. 19"),
    (["schedule=exp", "tau=21"], r"tau=21 .*schedule=exp.*count.*1 \.\.\. 20"),
    (["tau=ten"], r"tau='ten' is not allowed"),
    (["tau=2.5"], r"tau=2.5 is not allowed"),
    (["eta=-0.5"], r"eta=-0.5 is not allowed: eta is a number of at least 0"),
    (["eta=1.5"], r"eta=1.5 is not allowed with solver.sigma=paper.*choose eta in \[0, 1\]"),
    (["solver=probability_flow", "eta=0.5"], r"eta=0.5 is not allowed: the solver is deterministic"),
    (
        ["schedule=custom", "schedule.timesteps=[0,5,3]", "tau=null"],
        r"visited steps must be ascending, .* 0 \.\.\. 19, got",
    ),
    (["schedule=custom", "schedule.timesteps=[0,5]", "tau=3"], r"tau=3 is not allowed: the schedule lists"),
    (["solver=dpm_solver_pp", "solver.order=4"], r"solver.order=4 is not available: choose 1, 2 or 3"),
    (["evaluation.etas=[0.0,2.0]"], r"eta=2.0 is not allowed.*It is a cell of taus=\[\d, \d+\] and etas=\[0.0, 2.0\]"),
    (["eta=true"], r"eta=True is not allowed"),
    (["fresh=no"], r"fresh='no' is not allowed: it is true or false"),
    (["seed=abc"], r"seed='abc' is not allowed: it is an integer of at least 0"),
    (["trainer.max_steps=0"], r"trainer.max_steps=0 is not allowed: it is an integer of at least 1"),
    (["evaluation.taus=5"], r"evaluation.taus=5 is not allowed: it is a list"),
    (["evaluation.fine_images=0"], r"evaluation.fine_images=0 is not allowed"),
    (["evaluation.images=8"], r"8 images are too few to estimate a covariance on 8 features: at least 9 are needed"),
    (["evaluation.schedules=[quad]"], r"evaluation.schedules=\['quad'\] is not allowed: it is null or such as"),
    (["evaluation.schedules={expo: null}"], r"names expo, which is unknown there: choose among exp, leading"),
    (["evaluation.schedules={exp: [99]}"], r"tau=99 is not allowed with schedule=exp"),
    (["metrics.classifier=perhaps"], r"metrics.classifier='perhaps' is not allowed: it is auto, true or false"),
    (["metrics.inception=5"], r"metrics.inception=5 is not allowed: it is null, a path"),
    (
        ["metrics.inception={tmp}/no.pth", "evaluation.images=500"],
        r"500 images are too few .* on 2048 features: .*2049",
    ),
    (
        ["dataset=folder", "dataset.root={tmp}/flat", "metrics.classifier=true"],
        r"need labels, and dataset folder has none: leave out",
    ),
    (["training.learning_rate=high"], r"training.learning_rate='high' is not allowed: it is a number"),
    (["model.attention=[5]"], r"model.attention=\[5\] names none of the levels' sizes \[14, 7, 3\]"),
    (["trainer.strategy=ddp"], r"trainer.strategy=ddp is not supported"),
    (["trainer.val_check_interval=2.5"], r"the trainer settings do not work"),
    (["paths.outputs="], r"paths.outputs is empty"),
    (["schedule.tau=7"], r"schedule.tau=7 is not allowed: it follows tau, so set tau=7 instead"),
    (["dataset.name=../evil"], r"dataset.name='../evil' is not allowed"),
    (["trainer.compile=maybe"], r"trainer.compile='maybe' is not allowed: it is auto, true or false"),
    (
        ["training.learning_rate=1e6"],
        r"the training diverged at step \d, .* so its model is not stored; .*: lower training.learning_rate",
    ),
    (["eta=much"], r"eta='much' is not allowed"),
    (
        ["solver.sigma=adjacent", "eta=1.0"],
        r"solver.sigma=adjacent .* at the step from t=\d+ to -?\d+ .*use solver.sigma=paper",
    ),
    (["dataset.image_size=27"], r"dataset.image_size=27 is not divisible by model.patch=2"),
    (["dataset.image_size=4"], r"dataset.image_size=4 is too small"),
    (["dataset=folder"], r"dataset=folder needs dataset.root"),
    (["dataset=folder", "dataset.root={tmp}/nowhere"], r"nowhere is not a folder"),
    (["dataset=folder", "dataset.root={tmp}/empty"], r"empty holds no images"),
    (["dataset=folder", "dataset.root={tmp}/broken"], r"broken/b\.png cannot be read as an image"),
    (["dataset=mnist", "dataset.root={tmp}/none"], r"holds no readable MNIST and it could not be downloaded"),
    (["dataset.held_out=5000"], r"dataset.held_out=5000 must lie in 1"),
    (["noise.beta_1=0"], r"noise.beta_1=0.0 and noise.beta_T=0.02 must satisfy"),
    (["noise.num_steps=1"], r"noise.num_steps=1 is not allowed: it is an integer of at least 2"),
    (["training.decay=linear"], r"training.decay='linear' is unknown"),
    (["training.batch_size=0"], r"training.batch_size=0 is not allowed: it is an integer of at least 1"),
    (["evaluation.images=1"], r"evaluation.images=1 is not allowed: it is an integer of at least 2"),
    (["evaluation.taus=[2,99]"], r"tau=99 is not allowed"),
    (["trainer.accelerator=gpu"], r"asks for CUDA, and there is none here"),
    (["trainer.accelerator=tpu"], r"choose auto, cpu or gpu"),
    (["paths.outputs=/dev/null/x"], r"Not a directory at /dev/null.*paths.outputs"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), BAD, ids=lambda value: "-".join(value) if isinstance(value, list) else ""
)
def test_bad_input_gets_one_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    if arguments == ["trainer.accelerator=gpu"]:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for name in ("a.png", "c.png"):
        Image.new("L", (8, 8)).save(tmp_path / "broken" / name)
    (tmp_path / "broken" / "b.png").write_bytes(b"no image")
    (tmp_path / "flat").mkdir()
    for i in range(200):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / "flat" / f"{i}.png")
    for proxy in ("http_proxy", "https_proxy"):  # no network: connections are refused at once
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    outputs = f"paths.outputs={tmp_path}/outputs"
    monkeypatch.setattr(sys, "argv", ["train.py", "experiment=smoke", "logger=none", outputs, *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as stopped:
        main(train.job)
    assert stopped.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(said, line), line
    assert not list(tmp_path.glob("outputs/models/*/DONE"))


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


def test_a_full_disk_gets_one_sentence_and_keeps_what_was_there(outputs, first):
    model = next(path for path in (outputs / "models").iterdir() if path.suffix != ".fresh")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    # KiB a file: smaller than a checkpoint, larger than a log
    done = run(f"paths.outputs={outputs}", "fresh=true", "logger=none", shell="ulimit -f 20; exec")
    assert done.returncode == 1
    assert re.search(r"^error: .*paths\.outputs", done.stderr, re.MULTILINE), done.stderr
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before

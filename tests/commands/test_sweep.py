"""Multiruns: one training, a failure that stops nobody, one report over all jobs, and what is left is made up for."""

import csv
import html
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from cells import make_grid
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from shell import ENVIRONMENT, ROOT, SHELL, python, run, summary_of

from skipstone.commands import schema
from skipstone.commands.cli import main
from skipstone.commands.sweeps import report
from skipstone.commands.sweeps.folder import again, command, typed
from skipstone.commands.words import quoted
from skipstone.evaluation import results as archive
from skipstone.report.rows import families

_TRAINING = "[skipstone.commands.train][INFO] - training "


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Six jobs, two of which ask for a tau that there is not; fresh=true trains once all the same."""
    outputs = tmp_path_factory.mktemp("outputs")
    return run(f"paths.outputs={outputs}", "tau=3,5,99", "eta=0.0,1.0", "fresh=true", "-m", **SHELL), outputs


@pytest.fixture(scope="module")
def folder(done):
    (found,) = done[1].glob("sweeps/*/*")
    return found


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_multirun_trains_once_and_a_failing_job_stops_no_other(done, folder):
    finished, outputs = done
    assert finished.returncode == 1
    assert finished.stdout.count(_TRAINING) == 1
    assert len(list((outputs / "models").iterdir())) == 1
    assert sorted(path.parent.name for path in folder.glob("*/report.html")) == ["0", "1", "2", "3"]
    assert sorted(path.parent.name for path in folder.glob("*/error.txt")) == ["4", "5"]
    assert [path.parent.name for path in folder.glob("*/training")] == ["0"]


def test_each_job_shows_the_training_that_they_share(folder):
    first, *others = [(folder / str(job) / "training_curve.png").read_bytes() for job in range(4)]
    assert first
    assert others == [first] * 3
    assert all('id="training"' in (folder / str(job) / "report.html").read_text() for job in range(4))


def test_each_job_samples_its_own_cell_and_the_sweep_is_the_grid(done, folder):
    assert [len(rows_of(folder / str(job) / "evaluation.csv")) for job in range(4)] == [1] * 4
    rows = rows_of(folder / "evaluation.csv")
    assert [(row["tau"], row["eta"]) for row in rows] == [("3", "0.0"), ("3", "1.0"), ("5", "0.0"), ("5", "1.0")]
    assert {row["model"] for row in rows} == {path.name for path in (done[1] / "models").iterdir()}
    for name in ("curves.png", "contact.png"):
        assert (folder / name).stat().st_size > 0


def test_its_page_speaks_of_the_sweep(done, folder):
    page = " ".join(re.sub(r"<[^>]+>", " ", (folder / "report.html").read_text().partition("<header>")[2]).split())
    (model,) = (path.name for path in (done[1] / "models").iterdir())
    assert page.startswith("Skipstone Sweep over tau, eta 4 cells of 1 model network evaluations 5–8 a sample best")
    assert "schedule uniform solver ddim" in page
    assert "tau 3, 5 eta 0, 1" in page
    assert "seconds are measured, of a cell that was sampled alone" in page
    assert "in one batch" not in page
    assert re.search(rf"Training .*{model} 8 \d[\d.]* 0\.\d+ 0\.\d+ ", page)  # steps, seconds, losses
    memory = page.partition("Which part of a cell")[2]
    assert memory.count("NFE 8") + memory.count("NFE 5") == 4


def test_a_sweep_over_seeds_is_averaged_and_its_grids_have_no_time_of_a_cell(tmp_path):
    grid = ["evaluation.grid=true", "evaluation.taus=[4,6]", "evaluation.etas=[0.0]", "evaluation.images=40"]
    done = run("-m", "seed=1,2", "logger=none", *grid, f"paths.outputs={tmp_path}", f"hydra.sweep.dir={tmp_path}/s")
    assert done.returncode == 0, done.stderr
    cells, averages = rows_of(tmp_path / "s" / "evaluation.csv"), rows_of(tmp_path / "s" / "averages.csv")
    assert [(row["seed"], row["tau"]) for row in cells] == [(seed, tau) for seed in "12" for tau in "46"]
    assert [(row["seeds"], row["tau"]) for row in averages] == [("2", "4"), ("2", "6")]
    for row in averages:
        a, b = (float(cell["fd_random"]) for cell in cells if cell["tau"] == row["tau"])
        assert float(row["fd_random"]) == pytest.approx((a + b) / 2)
        assert float(row["fd_random_std"]) == pytest.approx(abs(a - b) / 2**0.5)
    assert {row[name] for row in (*cells, *averages) for name in ("seconds", "images_per_second")} == {""}
    said, page = " ".join(done.stdout.split()), (tmp_path / "s" / "report.html").read_text()
    for text in (said, page):
        assert "4 cells were sampled in 2 batches, which took" in text
        assert "± " in text
    assert "40 images a cell: mean ± standard deviation over seeds" in said
    assert "<summary>Each seed</summary>" in page
    assert "uniform, seed=1" in page
    assert "All 2 cells were sampled in one batch, which took" in (tmp_path / "s" / "0" / "report.html").read_text()
    assert len({row["model"] for row in cells}) == page.count('<th scope="row" data-value="mnist5k-')


def test_failed_jobs_are_named_with_their_sentence(done, folder):
    page = (folder / "report.html").read_text()
    for job in ("4", "5"):
        said = rf"Job {job} \(.* tau=99 .*\) has no result: tau=99 is not allowed with schedule=uniform"
        assert re.search(said, page)
        assert re.search(said, done[0].stdout.replace("\n", " "))


def test_its_runs_in_wandb_are_one_group_and_all_finished(folder):
    records = list(folder.glob("*/wandb/offline-run-*/*.wandb"))
    assert len(records) == 1 + 4  # the training's and a sampling's each
    for record in records:
        assert folder.name.encode() in record.read_bytes()
        assert "finished (exit code 0)" in summary_of(record.parent)[1]


def test_resume_runs_the_jobs_without_a_result_and_no_other(done, folder):
    (folder / "1" / "results.safetensors").unlink()
    (folder / "2" / "results.safetensors").write_bytes(b"cut off")
    (folder / "evaluation.csv").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("[03]/results.safetensors")}
    rerun = python("train.py", f"resume={folder}", "logger=none")
    assert rerun.returncode == 1  # tau=99 is as wrong as before
    assert _TRAINING not in rerun.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(archive.command(folder / job) for job in "12")
    assert len(rows_of(folder / "evaluation.csv")) == 4
    names = re.findall(r"Job \d \((.*?)\) has no result", (folder / "report.html").read_text())
    assert len(names) == 2
    assert not any("resume=" in name for name in names)
    assert "logger=none" not in command(folder).task


def test_fresh_where_the_results_are_already_says_why_it_trains_nothing(done, folder):
    words = ["tau=3,5,99", "eta=0.0,1.0", "fresh=true", f"hydra.sweep.dir={folder}", "-m"]
    rerun = run(f"paths.outputs={done[1]}", *words)
    assert _TRAINING not in rerun.stdout
    assert " ".join(rerun.stdout.split()).count("so fresh=true trains nothing: for a new training leave out") == 4


def test_a_result_that_is_another_jobs_is_named_and_made_anew(done, folder):
    """Copied from another job; or there since before the command was edited."""
    foreign = (folder / "2" / "results.safetensors").read_bytes()
    (folder / "0" / "results.safetensors").write_bytes(foreign)
    said = " ".join(python("scripts/report.py", folder, **SHELL).stdout.split())
    assert re.search(r"Job 0 \(.* tau=3 eta=0.0 .*\) has no result: its results are of another job \(.* tau=5 ", said)
    assert len(rows_of(folder / "evaluation.csv")) == 3
    rerun = python("train.py", f"resume={folder}", "logger=none")
    assert rerun.stdout.count("has its result already") == 3
    assert [path.read_bytes() for path in folder.glob("*/foreign-*.safetensors")] == [foreign]
    assert len(rows_of(folder / "evaluation.csv")) == 4


def test_the_whole_command_that_a_report_prints_is_pasted_into_a_shell(done, tmp_path):
    """With a launcher, and a folder whose name means something else to the shell and to Hydra."""
    place = tmp_path / "it's, so = $to {say} [a] sweep"
    words = ["logger=none", "tau=3,5", "hydra/launcher=basic", f"hydra.sweep.dir={quoted(str(place))}", "-m"]
    assert run(f"paths.outputs={done[1]}", *words).returncode == 0
    (place / "1" / "results.safetensors").unlink()
    before = (place / "0" / "results.safetensors").stat().st_mtime_ns
    lines = python("scripts/report.py", place).stdout.splitlines()
    (short,) = [line.partition(": ")[2] for line in lines if line.startswith("To run what has no result: ")]
    (whole,) = [line.partition(": ")[2] for line in lines if line.startswith("That is, in full: ")]
    page = html.unescape((place / "report.html").read_text())
    for line in (whole, short):
        assert line in page
        pasted = line.replace("python", shlex.quote(sys.executable), 1)
        rerun = subprocess.run(["bash", "-c", pasted], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
        assert rerun.returncode == 0, rerun.stderr
        assert _TRAINING not in rerun.stdout
        assert (place / "0" / "results.safetensors").stat().st_mtime_ns == before
        (place / "1" / "results.safetensors").unlink()  # it was made again


def test_report_writes_the_page_again(folder):
    (folder / "report.html").unlink()
    assert python("scripts/report.py", folder).returncode == 0
    assert (folder / "report.html").stat().st_size > 0


def test_a_full_disk_leaves_the_report_that_was_there(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    full = python("scripts/report.py", folder, shell="ulimit -f 20; exec")  # KiB a file
    assert full.returncode == 1
    assert re.search(r"^error: File too large at .*: make room", full.stderr, re.MULTILINE)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_jobs_that_never_began_are_named(tmp_path, capsys):
    overview(tmp_path, "eta=0.0,1.0", "schedule.timesteps=[0,5],[0,9]", "+note='a,b'", "schedule=glob(log*)")
    (tmp_path / "1").mkdir()
    assert report.report(tmp_path) is None
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4 + 2  # and how to run them, in short and in full
    for number, why in enumerate(("it has not begun.", "it has not come to its end.", *["it has not begun."] * 2)):
        settings = f"eta={number // 2}.0 schedule.timesteps=[0,{(5, 9)[number % 2]}] +note='a,b' schedule=logsnr"
        assert said[number] == f"Job {number} ({settings}) has no result: {why}"


def test_a_refused_setting_wants_a_new_command_and_an_interruption_does_not(tmp_path, capsys):
    overview(tmp_path, "tau=3,99")
    (tmp_path / "1").mkdir()
    report.report(tmp_path)
    assert "give a new command" not in capsys.readouterr().out
    (tmp_path / "1" / "error.txt").write_text("tau=99 is not allowed.")
    report.report(tmp_path)
    assert "where one was refused, give a new command with the right value" in capsys.readouterr().out


def overview(folder, *task, cwd=ROOT):
    """A sweep's folder after `train.py -m *task`, typed in `cwd`."""
    folder.mkdir(exist_ok=True)
    overrides = {"task": list(task), "hydra": ["hydra.mode=MULTIRUN", "hydra/launcher=basic"]}
    OmegaConf.save({"hydra": {"overrides": overrides, "runtime": {"cwd": str(cwd)}}}, path_of(folder))


def path_of(folder):
    return folder / "multirun.yaml"


def test_resume_gives_back_the_command_whatever_is_in_it(tmp_path):
    folder = tmp_path / "it's, so = $to {say} [a] sweep"
    task = ["schedule.timesteps=[0,5],[0,9]", "dataset.root='a,b \\'c'", "eta=0.0,1.0"]
    overview(folder, *task, "resume=elsewhere")
    assert again([f"resume={quoted(str(folder))}"]) == again([f"resume={folder}"])
    words = again(["-m", "logger=none", f"resume={folder}/"])
    assert words[:5] == ["-m", "hydra/launcher=basic", *task]
    more = OverridesParser.create().parse_overrides(words[5:])
    assert [(override.key_or_group, override.value()) for override in more] == [
        ("resume", str(folder)),
        ("hydra.sweep.dir", str(folder)),
        ("logger", "none"),
    ]


def test_what_stands_beside_resume_holds_once(tmp_path):
    """Hydra writes the whole command line of a resume into the sweep's folder."""
    overview(tmp_path, "tau=2,3", "logger=csv")
    before = command(tmp_path)
    words = again([f"resume={tmp_path}", "hydra/launcher=joblib", "logger=none", "hydra.launcher.n_jobs=2"])
    hydra = [word for word in words if word.startswith("hydra")]
    task = [word for word in words if not word.startswith(("hydra", "-"))]
    assert task[-1] == "logger=none"
    OmegaConf.save(
        {"hydra": {"overrides": {"task": task, "hydra": [*hydra, "hydra.mode=MULTIRUN"]}}}, path_of(tmp_path)
    )
    after = command(tmp_path)
    assert after.task == before.task == ["tau=2,3", "logger=csv"]
    assert after.hydra == ["hydra/launcher=basic"]
    assert again([f"resume={tmp_path}", "logger=none"])[1:4] == [
        "hydra/launcher=basic",
        "tau=2,3",
        "logger=csv",
    ]


OURS = [
    "tau=2,3",
    "schedule=exp,quad",
    "schedule=glob(*)",
    "schedule.timesteps=[0,5],[0,9]",
    "evaluation.schedules={quad: [10, 20], uniform: null}",
    "solver.order=choice(2,3)",
    "seed=range(0,4)",
    "+trainer.benchmark=true",
    "++trainer.max_steps=5",
    "dataset.root='it\\'s, so'",
    "hydra/launcher=slurm",
    "hydra.launcher.partition=gpu",
    "hydra.launcher.account=us",
    "hydra.launcher.n_jobs=2",
    "evaluation.schedules={quad: [10, 20]},{exp: [5]}",
    "paths.outputs=../elsewhere",
]
FOREIGN = [
    "+note=1",  # it is no key of ours
    "model._target_=os.system",
    "+model.more={_target_:os.system}",
    "model.multipliers=[1,{_target_:os.system}]",
    "model.multipliers=[1],[{_target_:os.system}]",
    "evaluation.schedules={_target_: os.system}",
    "evaluation.schedules={quad: {a: 1}}",
    "dataset.name=${oc.env:HOME}",
    "dataset.name='${oc.env:HOME}'",
    "model=../../elsewhere",
    "model=unet_tiny,../../elsewhere",
    "logger@model=none",
    "hydra/launcher=/elsewhere",
    "hydra.launcher.setup=[touch ran]",
    "hydra.launcher.partition='gpu\ntouch ran #'",
    "hydra.job.env_set.PATH=elsewhere",
    "hydra.searchpath=[file://elsewhere]",
    "hydra/job_logging=none",
    "+hydra.callbacks.mine={_target_:os.system}",
    "~seed",
    "dataset.name=$\\{oc.env:HOME\\}",  # escaped signs
    "dataset.name=a$b",
    "evaluation.schedules={quad: [10]},{_target_: os.system}",
    "hydra.launcher.python=evil",
    "+hydra.launcher.python=evil",
    "hydra.job.chdir=true",
    "hydra.run.dir=elsewhere",
    "hydra.output_subdir=elsewhere",
    "hydra.sweep.subdir=elsewhere",
    "hydra/sweeper=elsewhere",
    "hydra.sweeper._target_=os.system",
    "+trainer._target_=os.system",
    "trainer={_target_: os.system}",
    "trainer.callbacks=[{_target_: os.system}]",
    "logger=[csv,../../evil]",
    "experiment='../../evil'",
]


@pytest.mark.parametrize("word", OURS)
def test_resume_follows_what_a_sweep_of_ours_can_say(word, tmp_path):
    overview(tmp_path, word)
    assert word in again([f"resume={tmp_path}"])


@pytest.mark.parametrize("word", FOREIGN)
def test_resume_follows_nothing_else(word, tmp_path):
    overview(tmp_path, "tau=2", word)
    with pytest.raises(
        ValueError, match=r"(?s)multirun\.yaml asks for .*, which is not followed, because it may run any code"
    ):
        again([f"resume={tmp_path}"])


def test_resume_takes_no_module_from_where_the_user_stands(tmp_path, monkeypatch):
    """Worker processes start as python -m, which would look for modules there first."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # and put back, in the end
    monkeypatch.chdir(tmp_path)
    (tmp_path / "joblib").mkdir()
    (tmp_path / "joblib" / "__init__.py").write_text("open('ran', 'w')")
    overview(tmp_path, "tau=2", "hydra/launcher=joblib")
    again([f"resume={tmp_path}"])
    subprocess.run([sys.executable, "-m", "joblib"], cwd=tmp_path, capture_output=True, check=False)
    assert not (tmp_path / "ran").exists()


# Runs train.py and prints, last of all, which settings of other programs it has read, and where compiled code is kept.
READS = """
import atexit, os, runpy, sys
names, read, sys.argv = ("settings", "matplotlibrc"), set(), ["train.py", *sys.argv[1:]]
sys.addaudithook(lambda event, told: read.add(str(told[0])) if event == "open" and str(told[0]).endswith(names) else 0)
caches = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
atexit.register(lambda: print("read:", *sorted(read), *map(os.environ.get, caches)))
runpy.run_path(%r, run_name="__main__")
"""


def test_a_folder_from_elsewhere_chooses_no_working_directory_and_no_configuration(tmp_path):
    """A wandb/settings may name another server, to which the login would go; compiled code is run as it is found."""
    pytest.importorskip("wandb")
    foreign, here = tmp_path / "foreign", tmp_path / "here"
    here.mkdir()
    overview(foreign, "experiment=smoke", "logger=wandb", "tau=3,5", f"paths.outputs={foreign}/outputs", cwd=foreign)
    for folder in (foreign, foreign / "wandb", foreign / "0", foreign / "0" / "wandb"):
        folder.mkdir(exist_ok=True)
        (folder / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\n")
        (folder / "matplotlibrc").write_text("savefig.dpi: 5\n")
    offline = {**ENVIRONMENT, "WANDB_MODE": "offline"}
    done = python("-c", READS % str(ROOT / "train.py"), f"resume={foreign}", cwd=here, environment=offline)
    assert done.returncode == 0, done.stderr
    read = done.stdout.splitlines()[-1]
    assert read.startswith("read: ")
    assert "matplotlibrc" in read  # its own
    assert str(foreign) not in read
    assert f"the sweep was begun in '{foreign}': its relative paths are taken from here" in done.stderr


def test_words_are_printed_as_bash_reads_them_and_no_terminal_obeys_them(tmp_path):
    """A file from elsewhere may hold signs that move a terminal's cursor."""
    task = ["+a='b\n\x1b[2Jc\\n\\'d'", "dataset.root='é, $HOME `ls`'", "tau=1,2"]
    overview(tmp_path, *task)
    shown = typed(tmp_path)
    assert shown.isprintable()
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {shown}"], capture_output=True).stdout.decode().split("\0")
    assert words[:-1] == ["python", "train.py", "-m", "hydra/launcher=basic", *task, f"hydra.sweep.dir={tmp_path}"]
    with pytest.raises(ValueError, match=r"asks for \+a=.*b") as refused:
        again([f"resume={tmp_path}"])
    assert str(refused.value).isprintable()
    assert shown in str(refused.value)


@pytest.mark.parametrize("word", ["tau=[2", "--config-dir=/elsewhere", "-cn=other", "--info"])
def test_resume_says_which_file_has_words_that_cannot_be_read(word, tmp_path):
    overview(tmp_path, word)
    with pytest.raises(ValueError, match=r"multirun\.yaml is damaged"):
        again([f"resume={tmp_path}"])


def test_every_key_that_train_py_has_is_one_of_ours(composed):
    keys = {key for key in schema.dotted(OmegaConf.to_container(composed())) if "._" not in key}
    assert keys - schema.known_keys() <= {"dataset", "solver", "logger", "experiment"}  # groups
    assert "solver.variant" in schema.known_keys()  # of an option that is not chosen


@pytest.mark.parametrize(
    "beside",
    [
        "eta=0.5", "seed=4", "evaluation.images=30", "logger=csv,none", "logger@model=none", "trainer.threads=1",
        "+trainer.benchmark=true", "trainer.precision=bf16-mixed", "trainer.accelerator=cpu", "trainer=cpu",
        "experiment=smoke", "fresh=true", "hydra.sweep.dir=elsewhere", "hydra.mode=RUN",
    ],
)  # fmt: skip
def test_resume_refuses_what_may_change_a_result(beside, tmp_path):
    overview(tmp_path, "tau=2,3", "trainer.threads=1,2")
    with pytest.raises(ValueError, match=f"^{re.escape(beside)} is not allowed beside resume=.* new sweep with -m"):
        again([f"resume={tmp_path}", beside])


@pytest.mark.parametrize(
    "beside",
    [
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "logger=csv", "logger.entity=me", "trainer.devices=2",
        "trainer.threads=1", "trainer.enable_progress_bar=false",
    ],
)  # fmt: skip
def test_resume_takes_what_changes_no_result(beside, tmp_path):
    overview(tmp_path, "tau=2,3")
    assert again([f"resume={tmp_path}", beside])[-1] == beside


def test_a_folder_with_the_result_of_another_command_is_refused(tmp_path, monkeypatch, capsys):
    archive.save(make_grid(), "some-model", "python train.py tau=7", tmp_path)
    before = (tmp_path / "results.safetensors").read_bytes()
    arguments = ["experiment=smoke", f"paths.outputs={tmp_path}/outputs", f"hydra.run.dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as stopped:
        main(runpy.run_path(str(ROOT / "scripts" / "train.py"))["job"])
    assert stopped.value.code == 1
    assert "holds the result of another command (python train.py tau=7)" in capsys.readouterr().err
    assert (tmp_path / "results.safetensors").read_bytes() == before


def test_results_are_read_back_as_they_were(tmp_path):
    results = make_grid()
    archive.save(results, "some-model", "python train.py", tmp_path)
    for before, after in zip(results, archive.load(tmp_path), strict=True):
        assert after.row == {"model": "some-model", **before.row}
        assert after.own == before.own
        assert (after.film.t, after.film.p) == (before.film.t, before.film.p)
        assert torch.equal(after.film.x0, before.film.x0)
        assert torch.equal(after.samples, before.samples[:64])


def test_the_same_cell_of_two_models_is_two_cells_and_of_one_model_one(tmp_path):
    (tmp_path / "multirun.yaml").write_text("hydra: {overrides: {hydra: [], task: ['seed=0,1,0,2']}}")
    cell = replace(make_grid()[0], own=True)
    for job, model in enumerate(("first", "second", "first")):
        (tmp_path / str(job)).mkdir()
        archive.save([cell], model, f"python train.py seed={job % 2}", tmp_path / str(job))
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "results.safetensors").write_bytes(b"cut off")
    page = report.report(tmp_path).read_text()
    rows = rows_of(tmp_path / "evaluation.csv")
    assert [row["cell"] for row in rows] == [f"first-{cell.name}", f"second-{cell.name}"]
    assert [row["model"] for row in rows] == ["first", "second"]
    assert "its results cannot be read" in page
    assert "results.safetensors is damaged" in page


def test_what_was_swept_over_tells_models_apart(tmp_path, capsys):
    overview(tmp_path, "tau=20", "seed=31,32", "training.learning_rate=0.001,0.002")
    cell = make_grid()[1]
    jobs = [(seed, rate) for seed in ("31", "32") for rate in ("0.001", "0.002")]
    for job, (seed, rate) in enumerate(jobs):
        (tmp_path / str(job)).mkdir()
        typed = f"python train.py tau=20 seed={seed} training.learning_rate={rate}"
        archive.save([cell], f"model{job}", typed, tmp_path / str(job))
    page = report.report(tmp_path).read_text()
    rows = rows_of(tmp_path / "evaluation.csv")
    assert [(row["seed"], row["training.learning_rate"]) for row in rows] == jobs
    said = capsys.readouterr().out
    assert "0.002" in said
    assert "the same start noise" not in said
    assert "seed=31, learning_rate=0.001" in page
    assert "Every cell samples the same trained network" not in page


def test_models_of_one_swept_seed_are_told_apart_by_their_keys():
    rows = [
        {"seed": seed, "model": model, **make_grid()[1].facts} for seed in "12" for model in (f"a{seed}", f"b{seed}")
    ]
    assert list(families(rows)) == [f"uniform, model={model}{seed}, seed={seed}" for seed in "12" for model in "ab"]


@pytest.mark.parametrize("torn", ["- 'torn", "- tau=2\n-"])
def test_cells_that_differ_in_what_no_name_tells_are_two_cells(torn, tmp_path):
    """solver.clip_x0=true,false: one name, two results."""
    overview(tmp_path, "solver.clip_x0=true,false")
    cell = make_grid()[0]
    for job, clip in enumerate((True, False)):
        (tmp_path / str(job)).mkdir()
        archive.save(
            [replace(cell, facts={**cell.facts, "clip_x0": clip})],
            "model",
            f"python train.py solver.clip_x0={clip}",
            tmp_path / str(job),
        )
    (tmp_path / "1" / ".hydra").mkdir()
    (tmp_path / "1" / ".hydra" / "overrides.yaml").write_text(torn)  # takes no report along
    assert report.report(tmp_path) is not None
    rows = rows_of(tmp_path / "evaluation.csv")
    assert [(row["cell"], row["clip_x0"]) for row in rows] == [
        (f"{cell.name}-job0", "True"),
        (f"{cell.name}-job1", "False"),
    ]

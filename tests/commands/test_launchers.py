"""Multiruns whose jobs run in other processes: what holds with the default launcher holds with these."""

import csv
import os
import re
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
from filelock import SoftFileLease
from shell import ENVIRONMENT, ROOT, SHELL, python, run, summary_of
from test_survival import PATIENCE, wait_for

from skipstone.commands.sweeps import launch


def begin(tmp_path, *arguments):
    """train.py in a process group of its own; what it says goes to a file."""
    command = [sys.executable, "train.py", "-m", "experiment=smoke", f"paths.outputs={tmp_path}", *arguments]
    said = (tmp_path / "said").open("w")
    streams = dict(stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT)
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, start_new_session=True, **streams)


def assert_one_training_and_one_report(outputs, said):
    """Of a sweep tau=99,3 eta=0.0,1.0, whose first two jobs ask for a tau that there is not; returns the jobs' logs."""
    (sweep,) = outputs.glob("sweeps/*/*")
    assert sorted(path.parent.name for path in sweep.glob("*/error.txt")) == ["0", "1"]
    assert sorted(path.parent.name for path in sweep.glob("*/report.html")) == ["2", "3"]
    with (sweep / "evaluation.csv").open(newline="") as file:
        assert [(row["tau"], row["eta"]) for row in csv.DictReader(file)] == [("3", "0.0"), ("3", "1.0")]
    page = (sweep / "report.html").read_text()
    for job in (0, 1):
        assert re.search(
            rf"Job {job} \(.* tau=99 .*\) has no result: tau=99 is not allowed with schedule=uniform", page
        )
    assert re.search("^error: tau=99 is not allowed with schedule=uniform", said, re.MULTILINE)
    logs = "".join(path.read_text() for path in sweep.glob("*/train.log"))
    assert logs.count("] - trained in ") == 1
    (model,) = (outputs / "models").iterdir()
    assert (model / "DONE").is_file()
    return logs


def test_joblib(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    sweep = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "tau=99,3", "eta=0.0,1.0", "fresh=true", "-m"]
    done = run(f"paths.outputs={tmp_path}", *sweep, **SHELL)
    assert done.returncode == 1
    logs = assert_one_training_and_one_report(tmp_path, done.stderr)
    assert logs.count("] - training a classifier") == 1
    (folder,) = tmp_path.glob("sweeps/*/*")
    records = list(folder.glob("*/wandb/offline-run-*/*.wandb"))
    assert len(records) == 1 + 2  # the training's and a sampling's each
    for record in records:
        assert folder.name.encode() in record.read_bytes()
        assert "finished (exit code 0)" in summary_of(record.parent)[1]


THREADS = """
from joblib import Parallel, delayed

def threads(wanted):
    import torch
    from skipstone.network import placement
    placement.use_threads(wanted)
    return torch.get_num_threads()

if __name__ == "__main__":
    print(Parallel(n_jobs=2)(delayed(threads)(wanted) for wanted in (None, 1, 1000)))
"""


def test_joblib_divides_the_threads(tmp_path):
    pytest.importorskip("joblib")
    (tmp_path / "threads.py").write_text(THREADS)
    done = python(tmp_path / "threads.py", shell="unset OMP_NUM_THREADS; exec")
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert done.stdout == f"{[share, 1, share]}\n", done.stderr


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("the parent is told to stop", id="SIGTERM"),
        pytest.param("Ctrl-C in a terminal, which tells all processes", id="SIGINT", marks=pytest.mark.attack),
    ],
)
def test_who_stops_a_joblib_sweep_stops_all_of_it_once_the_training_is_saved(how, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    steps = ["trainer.max_steps=5000", "trainer.checkpoint_every_n_steps=5000", "trainer.val_check_interval=1.0"]
    process = begin(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "logger=none", "tau=3,5", *steps)
    (curve,) = wait_for(lambda: list(tmp_path.glob("models/*/metrics.csv")))
    waiting = f"waiting for the training of {tmp_path}/models"
    wait_for(lambda: waiting in (tmp_path / "said").read_text() and curve.stat().st_size)
    if how.startswith("Ctrl-C"):
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.terminate()
    assert process.wait(PATIENCE) == 130
    said = (tmp_path / "said").read_text()
    for job in (0, 1):
        assert re.search(rf"^Job {job} \(.*\) has no result: it has not come to its end\.$", said, re.MULTILINE)
    (sweep,) = tmp_path.glob("sweeps/*/*")
    assert f"python train.py resume={sweep}" in said
    assert torch.load(curve.with_name("last.ckpt"), weights_only=True)["global_step"] > 0
    assert not list(tmp_path.glob("models/*.lock"))
    wait_for(lambda: not group_lives(process.pid))


def test_workers_of_a_joblib_sweep_that_was_killed_save_and_end(tmp_path):
    """The one that trains and the one that waits; neither begins the third job."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    steps = ["trainer.max_steps=5000", "trainer.checkpoint_every_n_steps=5000", "trainer.val_check_interval=1.0"]
    process = begin(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "logger=none", "tau=3,5,7", *steps)
    (curve,) = wait_for(lambda: list(tmp_path.glob("models/*/metrics.csv")))
    wait_for(lambda: "waiting for the training" in (tmp_path / "said").read_text() and curve.stat().st_size)
    process.kill()
    process.wait(PATIENCE)
    wait_for(lambda: not group_lives(process.pid))
    assert 0 < torch.load(curve.with_name("last.ckpt"), weights_only=True)["global_step"] < 5000
    assert not list(tmp_path.glob("models/*.lock"))
    assert not list(tmp_path.glob("sweeps/*/*/2"))


# Two jobs for two workers, which then have nothing to do.
IDLE = """
import os
import signal
import time
from joblib import Parallel, delayed

def job(_):
    from types import SimpleNamespace as Made
    from hydra.types import RunMode
    from skipstone.commands.sweeps import launch
    made = Made(mode=RunMode.MULTIRUN, runtime=Made(output_dir=os.getcwd()))
    launch.HydraConfig.get = lambda: made
    with launch.failure_noted():
        during = signal.getsignal(signal.SIGTERM)
    time.sleep(1)
    return os.getpid(), during is signal.default_int_handler

if __name__ == "__main__":
    print(*Parallel(n_jobs=2)(delayed(job)(i) for i in range(2)), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["SIGTERM to a worker", "SIGKILL to their parent"])
def test_a_joblib_worker_without_a_job_ends_at_once(how, tmp_path):
    pytest.importorskip("joblib")
    (tmp_path / "idle.py").write_text(IDLE)
    command = [sys.executable, "idle.py"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        workers = re.findall(r"\((\d+), True\)", process.stdout.readline())
        assert len(set(workers)) == 2
        if how.startswith("SIGTERM"):
            os.kill(int(workers[0]), signal.SIGTERM)
            wait_for(lambda: not lives(workers[0]))
        else:
            process.kill()
            process.wait(PATIENCE)
            wait_for(lambda: not any(lives(worker) for worker in workers))
    finally:
        if group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def lives(process):
    """Whether the process is there and has not ended."""
    said = subprocess.run(["ps", "-o", "stat=", "-p", process], capture_output=True, text=True).stdout
    return said.strip() != "" and said[0] != "Z"


def group_lives(group):
    """Whether a process of the group is there that has not ended: who inherits an orphan may leave it as a zombie."""
    said = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True).stdout
    return any(int(pgid) == group and stat[0] != "Z" for pgid, stat in map(str.split, said.splitlines()))


def test_submitit_with_a_job_that_is_preempted(tmp_path):
    """It saves the very step and is put back; another one of the array, which waits, takes the training over."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    steps = ["trainer.max_steps=100", "trainer.checkpoint_every_n_steps=1000", "trainer.val_check_interval=1.0"]
    process = begin(tmp_path, "hydra/launcher=submitit_local", "logger=none", "tau=99,3", "eta=0.0,1.0", *steps)
    wait_for(lambda: any(path.stat().st_size for path in tmp_path.glob("models/*/metrics.csv")))
    (lock,) = tmp_path.glob("models/*.lock")
    os.kill(SoftFileLease(lock).owner.pid, signal.SIGUSR2)
    assert process.wait(PATIENCE) == 1
    logs = assert_one_training_and_one_report(tmp_path, (tmp_path / "said").read_text())
    assert re.search(r"resuming the training in .* after step [1-9]", logs)
    assert "Requeued job" in logs


def test_what_befell_a_launcher_is_one_sentence(tmp_path):
    submitit = pytest.importorskip("submitit")
    assert launch._complaint(BrokenProcessPool()).startswith("a worker process was killed")
    job = submitit.AutoExecutor(tmp_path, cluster="local").submit(int, "no number")
    for call, said in (
        (job.results, "a job came to no result"),
        (lambda: submitit.AutoExecutor(tmp_path, cluster="nowhere"), "the jobs could not be submitted: "),
    ):
        assert launch._complaint(raised_by(call)).startswith(said)
    assert launch._complaint(raised_by(lambda: int("a bug of ours"))) is None


def raised_by(call):
    try:
        call()
    except Exception as error:
        return error


# Runs train.py where no plugin of Hydra's is installed.
BARE = """
import runpy, sys, types
sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
sys.modules["hydra_plugins"].__path__ = []
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.parametrize(("launcher", "package"), [("joblib", "hydra-joblib"), ("slurm", "hydra-submitit")])
def test_a_launcher_that_is_not_installed(launcher, package, tmp_path):
    done = python("-c", BARE, "-m", f"hydra/launcher={launcher}", "tau=1,2", f"paths.outputs={tmp_path}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.match(rf"error: hydra/launcher=\w+ needs {package}-launcher, which is not installed: pip install", line)


def test_the_shipped_cluster_settings_are_ones_that_the_plugin_knows():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = python("train.py", "hydra/launcher=slurm", "--cfg", "hydra", "--package", "hydra.launcher")
    assert done.returncode == 0, done.stderr
    assert "SlurmLauncher" in done.stdout
    assert "max_num_timeout: 10" in done.stdout

"""Threads of torch: how they wait, and how many there are, in every command as a user types it."""

import os
import re

import pytest
from shell import ENVIRONMENT, ROOT, python, run

# Torch's OpenMP says what it has read, when it is loaded. A thread that waits then spins 300,000 times, or not at all.
UNSET = {name: value for name, value in ENVIRONMENT.items() if name != "OMP_WAIT_POLICY"}
UNSET |= {"OMP_DISPLAY_ENV": "VERBOSE"}
# The least that makes each command load torch
LOADS_TORCH = {
    "train.py": ["experiment=smoke", "logger=none", "tau=0"],
    "scripts/benchmark.py": ["training", "experiment=smoke", "trainer.accelerator=tpu"],
    "scripts/report.py": ["sweep"],
    "scripts/models.py": [],
    "scripts/distance.py": ["a=none", "b=mnist5k"],
    "scripts/solver.py": ["nfe=5", "out=."],
    **{
        f"scripts/{name}.py": ["run=none"]
        for name in ("evaluate", "export", "fit", "interpolate", "quality", "reconstruct", "sample", "study", "tables")
    },
}


def spins(said):
    (count,) = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", said)
    return int(count)


def command(script, folder, environment):
    (folder / "sweep" / "0").mkdir(parents=True)
    (folder / "sweep" / "multirun.yaml").write_text("hydra: {overrides: {hydra: [], task: [tau=1]}}")
    return python(ROOT / script, *LOADS_TORCH[script], cwd=folder, environment=environment)


def test_every_command_is_listed():
    scripts = {f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py")}
    assert {"train.py", *scripts} - {"scripts/train.py"} == set(LOADS_TORCH)  # the first runs the last


@pytest.mark.parametrize("script", LOADS_TORCH)
def test_threads_that_wait_sleep_in_every_command(script, tmp_path):
    assert spins(command(script, tmp_path, UNSET).stderr) == 0


def test_what_the_user_has_set_stays(tmp_path):
    done = command("scripts/sample.py", tmp_path, UNSET | {"OMP_WAIT_POLICY": "active"})
    assert spins(done.stderr) > 300_000


def test_in_python_it_is_the_users_to_set():
    words = ["-c", "import skipstone; skipstone.load"]
    assert spins(python(*words, environment=UNSET).stderr) > 0
    assert spins(python(*words, environment=UNSET | {"OMP_WAIT_POLICY": "passive"}).stderr) == 0


# Read by Python as it starts: at its end it says how many threads torch has.
AT_EXIT = "import atexit, sys; atexit.register(lambda: print('threads', sys.modules['torch'].get_num_threads()))"


def test_a_finished_model_is_sampled_with_its_own_threads(tmp_path):
    outputs = f"paths.outputs={tmp_path / 'outputs'}"
    done = run("logger=none", "metrics=none", "trainer.threads=1", outputs)
    assert done.returncode == 0, done.stderr
    (key,) = (path.name for path in (tmp_path / "outputs" / "models").glob("*-*[0-9a-f]") if path.is_dir())
    (tmp_path / "sitecustomize.py").write_text(AT_EXIT)
    environment = ENVIRONMENT | {
        "PYTHONPATH": f"{tmp_path}:{ENVIRONMENT.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "2",
    }
    for words, threads in ([], 1), (["threads=2"], min(2, os.cpu_count())):
        done = python("scripts/sample.py", f"run={key}", "n=1", "tau=3", outputs, *words, environment=environment)
        assert done.returncode == 0, done.stderr
        assert f"threads {threads}" in done.stdout.splitlines()

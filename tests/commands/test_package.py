"""The wheel: built, installed into an empty folder, and used from another one."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from shell import ENVIRONMENT, ROOT, python


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # a copy, because the build leaves its own folders beside what it builds
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "-q"]
    options = ["--no-deps", "--no-build-isolation", "-w", out]
    subprocess.run([*pip, "wheel", ".", *options], cwd=source, check=True, timeout=240)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--target", target, wheel]
    subprocess.run(pip, check=True, timeout=240)
    return target


def test_the_wheel_is_pure_and_small_and_has_the_command(wheel, installed):
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < 1_000_000
    assert {"skipstone/py.typed", "skipstone/__main__.py"} <= set(zipfile.ZipFile(wheel).namelist())
    assert (installed / "bin" / "skipstone").is_file()


def test_conf_in_the_wheel_is_that_of_the_repository(installed):
    def files(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.yaml")}

    assert files(installed / "skipstone" / "conf") == files(ROOT / "conf")


def test_train_sample_and_report_work_from_another_folder(installed, tmp_path):
    environment = ENVIRONMENT | {"PYTHONPATH": os.fspath(installed)}

    def skipstone(*words):
        done = python("-m", "skipstone", *words, cwd=tmp_path, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Look next at" in skipstone("train", "experiment=smoke", "logger=none")
    assert "samples of" in skipstone("sample", "run=latest", "n=2", "nfe=5", "schedule=linspace")
    skipstone("train", "-m", "experiment=smoke", "logger=none", "nfe=2,3", "schedule=linspace")
    (sweep,) = Path(tmp_path, "outputs", "sweeps").glob("*/*")
    assert "report.html" in skipstone("report", sweep).replace("\n", "")
    pages = [path.read_text() for path in Path(tmp_path, "outputs").rglob("report.html")]
    assert len(pages) == 1 + 2 + 1  # the run, the jobs of the sweep, and the sweep
    assert all("skipstone train " in page and "train.py" not in page for page in pages)
    assert not (installed / "outputs").exists()
    (key,) = (path.name for path in Path(tmp_path, "outputs", "models").iterdir())
    assert key in skipstone("models")
    assert f"Removed {key}." in skipstone("models", f"remove={key}")
    assert not list(Path(tmp_path, "outputs", "models").iterdir())
    assert "train one with skipstone train" in skipstone("models")


def test_messages_name_the_command_as_it_was_called(installed, tmp_path):
    for environment, before, typed in (
        (ENVIRONMENT | {"PYTHONPATH": os.fspath(installed)}, ["-m", "skipstone", "train"], "skipstone train"),
        (ENVIRONMENT, [ROOT / "train.py"], "python train.py"),
    ):
        done = python(*before, "--help", cwd=tmp_path, environment=environment)
        assert f"{typed} -m nfe=10,20,49" in done.stdout, done.stderr


def test_help_names_every_command_and_an_unknown_one_is_refused_with_them(installed, tmp_path):
    environment = ENVIRONMENT | {"PYTHONPATH": os.fspath(installed)}
    loaded = "import sys; sys.argv[1:] = ['--help']; from skipstone.__main__ import main; main(); "
    done = python("-c", loaded + "assert 'torch' not in sys.modules", cwd=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    assert all(f"  {path.stem}" in done.stdout for path in (ROOT / "scripts").glob("*.py"))
    done = python("-m", "skipstone", "trian", cwd=tmp_path, environment=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error: trian is no command: choose one of benchmark")


def test_bash_completes_settings():
    typed = """
        eval "$(python train.py -sc install=bash)"
        COMP_WORDS=(python train.py schedule=k) COMP_CWORD=2 COMP_LINE="python train.py schedule=k" COMP_POINT=26
        hydra_bash_completion
        echo "${COMPREPLY[@]}"
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    bash = subprocess.run(
        ["bash", "-c", typed], cwd=ROOT, env=ENVIRONMENT | {"PATH": path}, capture_output=True, text=True
    )
    assert bash.stdout.split() == ["schedule=karras"], bash.stderr

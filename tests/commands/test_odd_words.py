"""Words that no command understands: one sentence each, whatever the script, never a traceback."""

import contextlib
import io
import os
import random
import re
import runpy
import sys
from pathlib import Path

import pytest
from forks import FORKS
from shell import ENVIRONMENT, ROOT, python

from skipstone.commands.cli import CONF

COMMANDS = ("sample", "interpolate", "reconstruct", "evaluate", "study", "tables", "quality", "solver")
SCRIPTS = ["train.py", *(f"scripts/{name}.py" for name in COMMANDS)]
OPTIONS = {path.parent.name: path.stem for path in sorted(CONF.glob("*/*.yaml"))}
KEYS = [
    *OPTIONS, "tau", "eta", "run", "out", "paths.outputs", "noise.beta_1", "model._target_", "schedule.tau", "hydra",
    "hydra/launcher", "hydra.launcher.x", "hydra/job_logging", "hydra.searchpath", "hydra.run.dir", "defaults",
    "nowhere", "a.b", "é", "@", "noise@x", "noise@:",
]  # fmt: skip
VALUES = [
    "", "1", "null", "[]", "[", "}", "{a:1}", "{a:", "a,b", "${", "${a}", "${tau}", "${x:y}", "'", '"a', "=", "\\", "$",
    "../x", "/", "\n", "range(", "range(1,3)", "glob(*)", "choice()", "int(a)", "1e400", "nan", "[" * 50, "x" * 5000,
    "???", "cosine", "[cosine,linear]", "😀", "slurm", *OPTIONS.values(),
]  # fmt: skip


def word(rng: random.Random) -> str:
    key, value, prefix = rng.choice(KEYS), rng.choice(VALUES), rng.choice(["", "", "", "+", "++", "~"])
    return rng.choice([f"{prefix}{key}={value}"] * 6 + [f"{prefix}{key}={value}={value}", f"~{key}", f"--{key}"])


def command_lines(rng: random.Random) -> list[list[str]]:
    """Groups with an option, wanted or not, twice, with a misspelling; then random words."""
    grouped = [f"{group}={option}" for group, option in OPTIONS.items()]
    lines = [[each] for each in grouped] + [[f"+{each}"] for each in grouped] + [[each, "tua=1"] for each in grouped]
    return lines + [[word(rng) for _ in range(rng.choice([1, 1, 2, 3]))] for _ in range(60)]


def typed(script: str, words: list[str]) -> str | None:
    """What is wrong with how `script` takes these words; it composes its settings and does no more."""
    sys.argv = [str(ROOT / script), *([] if script == "train.py" else ["run=K"]), *words, "--cfg", "job"]
    os.environ.pop("HYDRA_FULL_ERROR", None)  # which the command before has set
    said, code = io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code
    except BaseException as error:
        return f"{script} {words}: {error!r}"
    lines = said.getvalue().splitlines()
    fine = code in (0, 2) or (code == 1 and len(lines) == 1 and lines[0].startswith("error: "))
    return None if fine else f"{script} {words}: {code} {said.getvalue()}"


def _all(script: str, seed: int, folder: Path) -> None:
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    os.chdir(folder)
    found = [typed(script, words) for words in command_lines(random.Random(seed))]
    (folder / "found").write_text("\n".join(filter(None, found)))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_word_gets_a_sentence(script, tmp_path):
    process = FORKS.Process(target=_all, args=(script, 5, tmp_path))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert (tmp_path / "found").read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["found"]


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        ("sample", ["run=K", "noise=cosine"], "noise=cosine is not allowed: this command has no group noise; `--cfg"),
        ("evaluate", ["run=K", "trainer=cpu"], "trainer=cpu is not allowed: this command has no group trainer; `--cfg"),
        ("sample", ["run=K", "+solver=ddim"], r"\+solver=ddim is not allowed: the command has that group already"),
        ("benchmark", ["sampling", "tua=5"], r"there is no key tua \(in tua=5\): did you mean tau"),
        ("sample", ["run=K", "+@=x"], r"\+@=x is not allowed: a setting has a name before the @"),
    ],
)  # fmt: skip
def test_the_real_command_says(script, words, says):
    done = python(f"scripts/{script}.py", *words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.match(f"error: {says}", line), line

"""The command line as a user calls it, and what it leaves, for tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

from warm import Interpreter

ROOT = Path(__file__).parents[1]

# Of a user who is not logged in to W&B and asks for no traceback, whoever runs the tests, and after whichever command.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "HYDRA_"))}
ENVIRONMENT |= {"NETRC": os.devnull, "OMP_NUM_THREADS": "1"}


WARM = Interpreter()
SHELL = {"shell": "exec"}  # a line of bash starts an interpreter of its own


def python(*arguments, shell=None, cwd=ROOT, environment=ENVIRONMENT):
    """`python *arguments`, a process of its own; one that hangs fails its test.

    A script of ours is spared its imports, unless a line of bash is to start it or its environment is another.
    """
    if shell is None and environment is ENVIRONMENT and str(arguments[0]).endswith(".py"):
        return WARM.run(arguments, cwd, environment)
    return subprocess.run(
        ["bash", "-c", f'{shell or "exec"} "$@"', "bash", sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


def run(*arguments, **how):
    return python("train.py", "experiment=smoke", *arguments, **how)


def run_folder(done):
    return Path(re.search(r"Look next at (\S+)/report.html", done.stdout.replace("\n", "")).group(1))


def summary_of(folder):
    """What W&B's own reader says of an offline run: the entries, and all of it."""
    read = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--summary", folder]
    said = subprocess.run(read, capture_output=True, text=True, timeout=120, env=ENVIRONMENT).stdout
    return dict(re.findall(r"^  (\S+) +(.+)$", said, re.MULTILINE)), said

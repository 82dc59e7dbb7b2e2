"""Processes that begin at once, for tests: forks of one that has imported everything."""

import multiprocessing
import os
import runpy
import sys

from shell import ENVIRONMENT, ROOT

FORKS = multiprocessing.get_context("forkserver")
_ALL = (
    "commands.train", "commands.finished", "commands.sweeps.report", "studies.proxies.study", "training.fit",
    "training.validation", "report.dashboard",
)  # fmt: skip
FORKS.set_forkserver_preload([f"skipstone.{module}" for module in _ALL])


def become(words, folder, files):
    """In a fork: a script and its arguments, in the folder, with what it says in two files."""
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    os.chdir(folder)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = words
    runpy.run_path(str(ROOT / words[0]), run_name="__main__")

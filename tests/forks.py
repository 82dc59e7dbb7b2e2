"""Processes that begin at once, for tests: forks of one that has imported everything."""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
_ALL = (
    "commands.train", "commands.finished", "commands.sweeps.report", "studies.proxies.study", "training.fit",
    "training.validation", "report.dashboard",
)  # fmt: skip
FORKS.set_forkserver_preload([f"skipstone.{module}" for module in _ALL])

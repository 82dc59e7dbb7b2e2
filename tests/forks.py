"""Processes that begin at once, for tests: forks of one that has imported everything."""

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["skipstone.job", "skipstone.finished", "skipstone.sweep", "skipstone.study"])

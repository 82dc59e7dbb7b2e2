"""A long multirun in one process holds no more than a short one.

What a job leaves in circles of references (of a figure: 18,000 objects and some megabytes) Python itself collects every
six jobs or so. It is collected here after each one, because what is told apart is what lives.
"""

import gc
import shlex
from pathlib import Path

import pytest
from forks import FORKS, become

# Of the cheapest jobs that there are, all of one model
SWEEP = "train.py experiment=smoke logger=none metrics=none evaluation.fine_images=1 -m tau=range(1,{})"


def _counted(room: Path, jobs: int) -> None:
    """The sweep, with a line on what lives after each job: objects of Python's collector, and resident kilobytes."""
    from skipstone.commands import train

    run, log = train.run, (room / "memory").open("w", buffering=1)

    def counted(*arguments):
        run(*arguments)
        gc.collect()
        log.write(f"{len(gc.get_objects())} {resident()}\n")

    train.run = counted
    become(shlex.split(SWEEP.format(jobs + 1)), room, [room / "out", room / "err"])


def resident() -> int:
    (line,) = (line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if line.startswith("Rss:"))
    return int(line.split()[1])


def after_each_job(room: Path, jobs: int) -> tuple[list[int], list[int]]:
    process = FORKS.Process(target=_counted, args=(room, jobs))
    process.start()
    process.join(60 + 10 * jobs)
    assert process.exitcode == 0, (room / "err").read_text()
    lines = [line.split() for line in (room / "memory").read_text().splitlines()]
    assert len(lines) == jobs
    return [int(objects) for objects, _ in lines], [int(kilobytes) for _, kilobytes in lines]


def test_a_job_of_a_sweep_leaves_no_objects_behind(tmp_path):
    """Hydra would keep the settings of each: 1,100 objects, a quarter of a megabyte."""
    objects, _ = after_each_job(tmp_path, 6)
    assert (objects[-1] - objects[2]) / 3 < 200


@pytest.mark.attack
def test_nor_does_memory_grow_over_forty_jobs(tmp_path):
    objects, kilobytes = after_each_job(tmp_path, 40)
    assert (objects[-1] - objects[9]) / 30 < 50
    assert (kilobytes[-1] - kilobytes[9]) / 30 < 200

"""How far long work has come: a bar in a terminal, and lines of the log where output goes to a file or a pipe."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

Show = Callable[[int, int], None]  # how much is done, and of how much

_Item = TypeVar("_Item")

_FIRST, _NEXT = 2.5, 10.0  # seconds to the first line, and between later ones
_bar: Progress | None = None  # the one of this process; work within other work has a line of its own in it


def nothing(done: int, total: int) -> None:
    """Progress that nobody is shown."""


@contextmanager
def shown(what: str, unit: str, note: Callable[[], str] = str) -> Iterator[Show]:
    """Show how far `what` has come, counted in `unit`s, with the time that is left; gives what is to be called.

    note: what else to say of it, whenever it is shown
    """
    if Console().is_terminal and parent_process() is None:  # several processes would draw over each other
        with _shared() as bar:
            task = bar.add_task(what, total=None, unit=unit, note="")
            try:
                yield lambda done, total: bar.update(task, completed=done, total=total, note=note())
            finally:
                bar.remove_task(task)
    else:
        yield _lines(what, unit, note)


def each(items: Sequence[_Item], what: str, unit: str) -> Iterator[_Item]:
    """The items, one after the other, with progress shown."""
    with shown(what, unit) as show:
        for done, item in enumerate(items, 1):
            yield item
            show(done, len(items))


@contextmanager
def _shared() -> Iterator[Progress]:
    global _bar
    if _bar is not None:
        yield _bar
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"))
    try:
        with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), transient=True) as _bar:
            yield _bar
    finally:
        _bar = None


def _lines(what: str, unit: str, note: Callable[[], str]) -> Show:
    began, first = time.monotonic(), -1
    due = began + _FIRST

    def show(done: int, total: int) -> None:
        nonlocal due, first
        now = time.monotonic()
        first = done - 1 if first < 0 else first  # of a training that goes on, where it does
        if due <= now and done < total:
            due = now + _NEXT
            left = (now - began) * (total - done) / (done - first)
            log.info("%s: %d of %d %s, %.0f s left%s", what, done, total, unit, left, f", {note()}" * bool(note()))

    return show

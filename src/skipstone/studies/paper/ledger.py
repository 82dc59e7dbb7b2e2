"""results.json and what is kept beside it: written after every part, so that a run that is cut off loses one part."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from skipstone.store import files, tensors
from skipstone.studies.paper.parts import Outcome, Part, Progress

log = logging.getLogger(__name__)

_RESULTS, _SAMPLES = "results.json", "samples.safetensors"
_CLOSING = 10.0  # seconds of a budget that are left for the pictures and the page
_SLOWER = 1.1  # what measuring adds to sampling, at most
_SAY = 10.0  # seconds between lines of progress


class Ledger:
    """The folder of results: what was done, and the first samples of its cells.

    identity: everything that changes a number. A folder that was begun with it is taken up again; raises
    FileExistsError for a folder that holds anything else.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self._path = folder, folder / _RESULTS
        self.results: dict[str, Any] = {"identity": identity, "parts": {}, "left_out": []}
        self.samples: dict[str, Tensor] = {}
        if self._path.is_file():
            self._take_up(identity)
        elif folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f"out={folder} holds other files: name a folder that does not exist.")

    def _take_up(self, identity: dict[str, Any]) -> None:
        try:
            there = json.loads(self._path.read_text(encoding="utf-8"))
            theirs = there["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise FileExistsError(
                f"{self._path} is no file of this command ({error}): name a folder that does not exist."
            ) from error
        different = sorted(key for key in {*theirs, *identity} if theirs.get(key) != identity.get(key))
        if different:
            raise FileExistsError(
                f"out={self.folder} holds results of another {' and '.join(different)}: name a folder that does not "
                "exist, or the same settings to go on."
            )
        if there.pop("digest", None) not in (None, _digest(there)):  # an earlier version wrote none
            raise FileExistsError(f"{self._path} is damaged: name a folder that does not exist.")
        self.results = there
        kept = tensors.found(self.folder / _SAMPLES, _digest(identity))
        if kept is not None:
            self.samples = kept.tensors
        else:
            log.warning("the samples in %s are gone: pictures will lack them", self.folder)

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """By name what is done: rows, seconds, evaluations, images, device."""
        return self.results["parts"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Of all parts."""
        return [row for part in self.parts.values() for row in part["rows"]]

    def missing(self, parts: Sequence[Part]) -> list[Part]:
        """Those that are not done."""
        return [part for part in parts if part.name not in self.parts]

    def add(self, part: Part, outcome: Outcome, **facts: Any) -> None:
        """Keep what a part gave."""
        self.parts[part.name] = {
            "evaluations": part.evaluations,
            "images": part.images,
            "sampling_seconds": outcome.seconds,
            **facts,
            "rows": [{key: _plain(value) for key, value in row.items()} for row in outcome.rows],
        }
        self.samples |= outcome.samples
        tensors.keep(self.samples, self.folder / _SAMPLES, _digest(self.results["identity"]))
        self.save()

    def save(self) -> None:
        """Write results.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(self._path) as path:
            content = self.results | {"digest": _digest(self.results)}
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """JSON knows no NaN: the distance of samples that diverged is no number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def carry_out(
    parts: Sequence[Part],
    ledger: Ledger,
    *,
    rate: float,
    budget: float | None,
    spent: Callable[[], float],
    device: str,
    entered: Callable[[], None],
) -> None:
    """Run the parts, given the most important first, and enter each.

    rate: evaluations a second, as measured; each part that was run mends it.  budget: seconds.  spent: seconds so far.
    Before each part those that still fit into the budget are chosen, the most important first; the rest is left out.
    device: as people know it.  entered: called before the first part and after each.
    """
    ahead = list(parts)
    while True:
        ledger.results["left_out"] = [part.name for part in ahead]
        ledger.save()
        entered()
        left = math.inf if budget is None else budget - spent() - _CLOSING
        chosen = _fitting(ahead, rate, left)
        if not chosen:
            break
        part = next((part for part in chosen if part.others_need_it), chosen[0])
        began = time.perf_counter()
        outcome = part.run(_spoken(part))
        seconds = time.perf_counter() - began
        rate = part.cost * part.evaluations / outcome.seconds
        ledger.add(part, outcome, seconds=seconds, device=device)
        log.info("%s: done in %.1f s, sampled at %.0f evaluations/s", part.name, seconds, rate / part.cost)
        ahead.remove(part)
    for part in ahead:
        log.warning("%s is left out: %.0f of %.0f s are spent", part.name, spent(), budget)


def _fitting(parts: Sequence[Part], rate: float, seconds: float) -> list[Part]:
    """Those that can be done in so many seconds, the first in preference to later ones."""
    chosen = []
    for part in parts:
        needed = _SLOWER * part.cost * part.evaluations / rate
        if needed <= seconds:
            seconds -= needed
            chosen.append(part)
    return chosen


def _spoken(part: Part) -> Progress:
    """Progress as lines, for a run that nobody watches."""
    began = said = time.perf_counter()

    def progress(done: int, total: int) -> None:
        nonlocal said
        now = time.perf_counter()
        if now - said >= _SAY:
            said = now
            rate = part.evaluations * done / total / (now - began)
            log.info("%s: %.0f %% of %d evaluations, %.0f/s", part.name, 100 * done / total, part.evaluations, rate)

    return progress

"""What the sampling of a cell gave, before it is measured; kept beside its model, it is sampled once."""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from skipstone.data import to_bytes
from skipstone.solvers import StepTable
from skipstone.solvers.portable import table_data
from skipstone.store import tensors

log = logging.getLogger(__name__)

FILM_SAMPLES = 8


@dataclass(frozen=True)
class Film:
    """A cell's first samples after some of its rows t → p, evenly spread, the last included.

    x, x0: uint8 [frames, samples, C, H, W] on the CPU: the state, and the x0 predicted on the way to it.
    """

    t: list[int]
    p: list[int]
    x: Tensor
    x0: Tensor


@dataclass(frozen=True)
class Batch:
    """Cells that were sampled together, in one batch that stays full: only all of them have a measured time.

    cells:    how many
    images:   of all of them
    seconds:  that their sampling took
    """

    cells: int
    images: int
    seconds: float


@dataclass(frozen=True)
class Sampled:
    """The samples of a cell.

    images:  uint8 [n, C, H, W] on the CPU
    first:   float32 [m, C, H, W] on the CPU: the first of them in [−1, 1], as solver_rmse compares them
    batch:   the sampling that they were part of; None where that is not known
    film:    the first samples on their way from noise
    lost:    which samples are not finite, and since which t; None where all are finite
    """

    images: Tensor
    first: Tensor
    batch: Batch | None = None
    film: Film | None = None
    lost: str | None = None

    @classmethod
    def of(
        cls, x: Tensor, batch: Batch, compared: int = 0, film: Film | None = None, lost: str | None = None
    ) -> "Sampled":
        """From samples, float [n, C, H, W] on the CPU.  compared: how many of them solver_rmse compares."""
        if lost is None and not x.isfinite().all():
            lost = "some of its samples are not finite (NaN or infinite)"
        return cls(to_bytes(x), x[:compared].float(), batch, film, lost)


@dataclass(frozen=True)
class Sampling:
    """What the bits of samples depend on beside the model and the table.

    shape:       (C, H, W)
    seed:        of the start noise
    batch_size:  samples per network evaluation
    """

    shape: tuple[int, ...]
    seed: int
    batch_size: int


@dataclass(frozen=True)
class KeptCells:
    """The cells of one network that were sampled before, kept in the model's folder.

    folder:  the model's
    form:    what changes the network's predictions: its weights, precision and kernels
    """

    folder: Path
    form: dict[str, str]

    def read(self, table: StepTable, how: Sampling, n: int, compared: int, filmed: bool) -> Sampled | None:
        """The first n samples of a table; None where not so many are kept, or fewer to compare, or no film."""
        of = self._of(table, how)
        kept = tensors.found(self._path(of), of)
        if kept is None:
            return None
        found, about = kept.tensors, json.loads(kept.about["about"])
        if len(found["images"]) < n or len(found["first"]) < compared or (filmed and about["steps"] is None):
            return None
        batch = about["batch"] and Batch(**about["batch"])
        film = Film(about["steps"]["t"], about["steps"]["p"], found["x"], found["x0"]) if filmed else None
        whole = len(found["images"]) == n  # else it took longer than these samples did
        return Sampled(found["images"][:n], found["first"][:compared], batch if whole else None, film)

    def write(self, table: StepTable, how: Sampling, sampled: Sampled) -> None:
        """Keep a table's samples in place of fewer that were kept; not those of which some are lost."""
        if sampled.lost is not None:
            return
        of, film, batch = self._of(table, how), sampled.film, sampled.batch
        shown = {} if film is None else {"x": film.x, "x0": film.x0}
        alone = batch is not None and batch.cells == 1  # else its time is also that of cells that are not here
        steps = None if film is None else {"t": film.t, "p": film.p}
        about = json.dumps({"batch": asdict(batch) if alone else None, "steps": steps})
        try:
            tensors.keep({"images": sampled.images, "first": sampled.first, **shown}, self._path(of), of, about=about)
        except OSError as error:
            log.warning("samples are not kept for the next time: %s", error)

    def _path(self, of: str) -> Path:
        return self.folder / "cells" / f"{hashlib.sha256(of.encode()).hexdigest()[:16]}.safetensors"

    def _of(self, table: StepTable, how: Sampling) -> str:
        """Everything that the samples are made from."""
        rows = hashlib.sha256(json.dumps(table_data(table)).encode()).hexdigest()
        return json.dumps({**self.form, **asdict(how), "table": rows}, sort_keys=True)

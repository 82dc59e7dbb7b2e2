"""The work, part by part: each family is tried on few images, and its best candidates are measured on many."""

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from skipstone import engine
from skipstone.commands.finished import OpenedModel
from skipstone.data import ImageSet, to_bytes
from skipstone.evaluation.metrics import Proxies
from skipstone.evaluation.metrics.distances import frechet, frechet_replicates
from skipstone.evaluation.metrics.jackknife import spread
from skipstone.schedules import Polynomial
from skipstone.solvers import DDIM, DPMSolverPP, Fitted, Solver
from skipstone.studies.paper.parts import Outcome, Part, Progress
from skipstone.studies.quality.candidates import BASE, Candidate, Family, Spacing, candidate, families, spacings

METRIC = "fd_classifier"
CONVERGED, BASELINE, TRIED, BEST = "converged", "baseline", "tried", "best"  # what a row is for

_FEW = 10  # evaluations: above, only the candidates that were the best here are tried
_KEPT = 3  # of them

Row = dict[str, Any]
Way = tuple[Solver, Spacing]


class Race:
    """One finished model on its device, the data, the classifier, and of them every part.

    config: of conf/quality.yaml.

    Raises ValueError for what the configuration must not ask for, and for data without labels.
    """

    SETTINGS = ("seed", "images", "images_tried", "nfes", "nfe_converged", "batch_size")

    def __init__(self, config: DictConfig, model: OpenedModel, images: ImageSet) -> None:
        most = len(images.held_out)
        for name in ("images", "images_tried"):
            if config[name] > most:
                raise ValueError(
                    f"{name}={config[name]} is not allowed: {most} images of {images.name} are held out, and there "
                    "must be as many."
                )
        if images.train_labels is None:
            raise ValueError(f"dataset={images.name} has no labels, and {METRIC} needs them: choose one that has.")
        self.config, self.model, self.images = config, model, images
        nfes = list(config.nfes)
        if not all(type(nfe) is int and nfe >= 1 for nfe in nfes) or len(set(nfes)) < len(nfes):
            raise ValueError(f"nfes={nfes} is not allowed: list different integers of at least 1.")
        self.nfes, self._families = sorted(nfes), families(config.solvers)
        self._spacings = spacings(model.process, model.costs())

    @cached_property
    def proxies(self) -> Proxies:
        """Trains the classifier if there is none."""
        outputs = Path(self.config.paths.outputs)
        return instantiate(self.config.metrics)(
            images=self.images, n=self.config.images, outputs=outputs, device=self.model.device
        )

    @cached_property
    def parts(self) -> list[Part]:
        """The most telling first. The others are compared with the converged solution and the baseline."""
        fitted = [self._fitted()] if set(self.nfes) & set(self.model.tables.nfes()) else []
        return [self._converged(), self._baseline(), *fitted, *(self._family(family) for family in self._families)]

    def warm_up(self) -> tuple[float, float]:
        """(seconds until the network has compiled, its evaluations a second), from batches that nobody keeps."""
        table, size = self._fine(10).table, self.config.batch_size

        def batch() -> float:
            began = time.perf_counter()
            engine.sample_many(self.model.net, [table], size, self.images.shape, batch_size=size)[0].cpu()
            return time.perf_counter() - began

        return batch(), table.nfe * size / batch()

    def _converged(self) -> Part:
        cell, n = self._fine(self.config.nfe_converged), self.config.images

        def run(progress: Progress) -> Outcome:
            return Outcome(self._measured(CONVERGED, CONVERGED, [cell], progress), {})

        return Part(CONVERGED, n * cell.nfe, n, run, others_need_it=True)

    def _fine(self, nfe: int) -> Candidate:
        """A solution of second order on so many steps, or on all of the process."""
        process = self.model.process
        spacing, solver = Polynomial(min(nfe, process.num_steps)), DPMSolverPP(2)
        table = solver.table(process, spacing(process.num_steps))
        return Candidate(solver.name, f"{spacing.name}, to data", table.nfe, table)

    def _baseline(self) -> Part:
        way = DDIM(), next(spacing for spacing in self._spacings if spacing.name == BASE)
        cells = self._candidates([way], self.nfes)

        def run(progress: Progress) -> Outcome:
            return Outcome(self._measured(BASELINE, BASELINE, cells, progress), {})

        n = self.config.images
        return Part(BASELINE, n * sum(cell.nfe for cell in cells), n * len(cells), run, others_need_it=True)

    def _fitted(self) -> Part:
        """The tables that were fitted to the model: nothing is to be chosen."""
        n, tables = self.config.images, [self.model.fitted(nfe) for nfe in self.nfes if nfe in self.model.tables.nfes()]
        cells = [Candidate(Fitted.name, "its own", table.nfe, table) for table in tables]

        def run(progress: Progress) -> Outcome:
            return Outcome(self._measured(Fitted.name, BEST, cells, progress), {})

        return Part(Fitted.name, n * sum(cell.nfe for cell in cells), n * len(cells), run)

    def _family(self, family: Family) -> Part:
        few, many = ([nfe for nfe in self.nfes if (nfe <= _FEW) == side] for side in (True, False))
        ways = [(solver, spacing) for solver in family.variants for spacing in self._spacings]
        late = _KEPT if few else len(ways)
        tried = self._candidates(ways, few)
        n, n_tried = self.config.images, self.config.images_tried
        evaluations = n_tried * (sum(cell.nfe for cell in tried) + late * sum(many)) + n * sum(self.nfes)

        def run(progress: Progress) -> Outcome:
            meter = _Meter(progress, evaluations)
            rows = self._measured(family.name, TRIED, tried, meter.of(n_tried * sum(cell.nfe for cell in tried)))
            leading = ways
            if few:
                names = [(row["solver"], row["spacing"]) for row in ranked(rows, max(few))[:_KEPT]]
                leading = [way for way in ways if (way[0].name, way[1].name) in names]
            further = self._candidates(leading, many)
            rows += self._measured(family.name, TRIED, further, meter.of(n_tried * late * sum(many)))
            cells = {(cell.nfe, cell.solver, cell.spacing): cell for cell in [*tried, *further]}
            first = [order[0] for order in (ranked(rows, nfe) for nfe in self.nfes) if order]
            best = [cells[row["nfe"], row["solver"], row["spacing"]] for row in first]
            rows += self._measured(family.name, BEST, best, meter.of(n * sum(self.nfes)))
            return Outcome(rows, {})

        return Part(family.name, evaluations, n * len(self.nfes), run)

    def _candidates(self, ways: Sequence[Way], nfes: Sequence[int]) -> list[Candidate]:
        found = [candidate(self.model.process, *way, nfe) for way in ways for nfe in nfes]
        return [cell for cell in found if cell is not None]

    def _measured(self, part: str, role: str, cells: Sequence[Candidate], progress: Progress) -> list[Row]:
        """Rows of the cells, which are sampled in one packed batch from the same start noise.

        What is tried has noise of its own: on the noise on which it was the best of many, the best looks too good.
        """
        if not cells:
            return []
        n = self.config.images_tried if role == TRIED else self.config.images
        size = min(self.config.batch_size, n * len(cells))
        began = time.perf_counter()
        sampled = engine.sample_many(
            self.model.net,
            [cell.table for cell in cells],
            n,
            self.images.shape,
            seed=self.config.seed + (role == TRIED),
            batch_size=size,
            progress=progress,
        )
        sampled[-1].sum().item()  # waits for the device
        seconds = (time.perf_counter() - began) / sum(cell.nfe for cell in cells)
        (proxy,) = (proxy for proxy in self.proxies.proxies if proxy.fd.name == METRIC)
        rows = []
        for cell, x in zip(cells, sampled, strict=True):
            features = proxy.extractor(to_bytes(x))
            finite = bool(x.isfinite().all())  # as bytes they look like any black image
            row = {"part": part, "role": role, "solver": cell.solver, "spacing": cell.spacing, "nfe": cell.nfe}
            row |= {"images": n, METRIC: frechet(proxy.reference, features) if finite else None}
            if finite and role != TRIED:
                row["replicates"] = frechet_replicates(proxy.reference, features)
                row[f"{METRIC}_std"] = spread(row["replicates"])
                row[f"{METRIC}_floor"] = self.proxies.floors[METRIC].value
            rows.append(row | {"seconds": cell.nfe * seconds})
        return rows


def ranked(rows: Sequence[Row], nfe: int) -> list[Row]:
    """The rows that were tried at nfe evaluations, the best first, without those that diverged."""
    there = [row for row in rows if row["role"] == TRIED and row["nfe"] == nfe and row[METRIC] is not None]
    return sorted(there, key=lambda row: row[METRIC])


class _Meter:
    """Progress of several samplings as one. total: evaluations of all of them."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def of(self, evaluations: int) -> Callable[[int, int], None]:
        """Progress of the next sampling, which takes so many evaluations."""
        before = self._done
        self._done += evaluations
        return lambda done, total: self._progress(before + evaluations * done // total, self._total)

"""The parts of the tables, the most important first. Each samples in one packed batch and measures what came out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from skipstone import engine
from skipstone.commands.finished import OpenedModel
from skipstone.data import ImageSet, pick, to_unit
from skipstone.evaluation.evaluate import Cell, evaluate, measure
from skipstone.evaluation.fine import FineSolution
from skipstone.evaluation.metrics import MemoryCheck, Proxies
from skipstone.evaluation.metrics.features import float32
from skipstone.evaluation.sampled import Batch, Sampled
from skipstone.network import placement
from skipstone.schedules import Exp, Quad, Uniform
from skipstone.solvers import DDIM, DPMSolverPP
from skipstone.store import stored
from skipstone.studies.paper import cells, published

KEPT = 64  # samples of a cell, for pictures
CHECKED = 1000  # samples of a cell that are compared with the training images
_IN_FLOAT32 = 6.0  # how many times as long an evaluation in float32 takes, or so: for the budget

Progress = Callable[[int, int], None]


class Outcome(NamedTuple):
    """What a part gave.

    rows:     one per cell
    samples:  the first of its cells, uint8 [≤ KEPT, C, H, W], by the cell's name
    batch:    seconds that its cells took together; None where each was sampled alone, and its row has them
    """

    rows: list[dict[str, Any]]
    samples: dict[str, Tensor]
    batch: float | None = None

    @property
    def seconds(self) -> float:
        """That all of its sampling took."""
        return sum(row["seconds"] for row in self.rows) if self.batch is None else self.batch


@dataclass(frozen=True)
class Part:
    """One piece of the work.

    evaluations: of the network, over all samples.  images: that it makes.  others_need_it: whether it goes first where
    there is time for it at all.  cost: how many times as long as by the network as it is sampled, on average.
    """

    name: str
    evaluations: int
    images: int
    run: Callable[[Progress], Outcome]
    others_need_it: bool = False
    cost: float = 1.0


class Tables:
    """One finished model on its device, the data, the yardsticks, and of them every part.

    config: of conf/tables.yaml.  trainer: resolved.  baseline: a second finished model, or None. Every cell is built
    here, so that what is not allowed is refused before anything is trained or sampled.
    """

    SETTINGS = ("seed", "images", "images_all_steps", "images_back", "nfes", "nfes_compared", "nfes_back", "batch_size")

    def __init__(
        self,
        config: DictConfig,
        model: OpenedModel,
        images: ImageSet,
        baseline: OpenedModel | None,
    ) -> None:
        for name in ("images", "images_all_steps", "images_back"):
            if config[name] > len(images.held_out):
                raise ValueError(
                    f"{name}={config[name]} is not allowed: {len(images.held_out)} images of {images.name} are held "
                    "out, and there must be as many."
                )
        self.config, self.model, self.images = config, model, images
        self.net, self.device = model.net, model.device
        self.parts = [
            *(self._row_of_table_1(row) for row in ("0", "1", "σ̂", "0.5", "0.2")),
            self._reconstruction(),
            *([] if baseline is None else [self._baseline(baseline)]),
            self._fine_solution(),
            *([] if placement.is_reference(model.trainer) else [self._precision()]),
            self._compared("schedules", DDIM(), [Uniform, Exp]),
            self._compared("solvers", DPMSolverPP(order=2), [Quad, Uniform, Exp]),
            *(self._all_steps(row) for row in ("0", "1", "σ̂")),
        ]

    @cached_property
    def proxies(self) -> Proxies:
        """At config.images; trains the classifier if there is none."""
        outputs = Path(self.config.paths.outputs)
        return instantiate(self.config.metrics)(
            images=self.images, n=self.config.images, outputs=outputs, device=self.device
        )

    def warm_up(self) -> tuple[float, float]:
        """(seconds until the network has compiled, its evaluations a second), from batches that nobody keeps."""
        (cell,) = cells.row_of_table_1(self.model.process, "1", [min(10, self.model.process.num_steps)])

        def batch() -> float:
            began = time.perf_counter()
            size = self.config.batch_size
            engine.sample_many(self.net, [cell.table], size, self.images.shape, batch_size=size)[0].cpu()
            return time.perf_counter() - began

        return batch(), cell.table.nfe * self.config.batch_size / batch()

    def _row_of_table_1(self, row: str) -> Part:
        its_cells = cells.row_of_table_1(self.model.process, row, self.config.nfes)
        return self._part(f"table 1, {published.said(row)}", its_cells, row=row, is_table_1=True)

    def _compared(self, name: str, solver: Any, schedules: Sequence[Any]) -> Part:
        return self._part(name, cells.compared(self.model.process, schedules, solver, self.config.nfes_compared))

    def _baseline(self, baseline: OpenedModel) -> Part:
        its_cells = cells.row_of_table_1(baseline.process, "0", self.config.nfes_compared)
        return self._part("baseline", its_cells, net=baseline.net)

    def _part(
        self,
        name: str,
        its_cells: list[Cell],
        *,
        row: str = "0",
        is_table_1: bool = False,
        net: nn.Module | None = None,
    ) -> Part:
        """Cells at config.images.

        is_table_1: also held against the training images, and their first samples kept.  net: another network than
        the model's.
        """
        n = self.config.images

        def run(progress: Progress) -> Outcome:
            results = evaluate(
                net or self.net,
                its_cells,
                self.images.shape,
                self.proxies,
                seed=self.config.seed,
                batch_size=self.config.batch_size,
                fine=self.fine if net is None else None,
                progress=progress,
            )
            rows = [{"part": name, "row": row, **result.row} for result in results]
            if is_table_1:
                for line, result in zip(rows, results, strict=True):
                    line["too_near"] = self._memory(result.samples[:CHECKED]).too_near
            kept = results if is_table_1 else []  # the baseline's cells have the names of Table 1's
            samples = {result.name: result.samples[:KEPT].clone() for result in kept}
            return Outcome(rows, samples, results[0].batch.seconds)

        return Part(name, n * sum(cell.table.nfe for cell in its_cells), n * len(its_cells), run)

    def _all_steps(self, row: str) -> Part:
        """A cell of Table 1 over every step, at config.images_all_steps."""
        (cell,) = cells.row_of_table_1(self.model.process, row, [self.model.process.num_steps])
        name, n = f"table 1, {published.said(row)}, every step", self.config.images_all_steps

        def run(progress: Progress) -> Outcome:
            line = self._measured(cell, lambda: self._sample_all_steps(cell, progress))[0]
            return Outcome([{"part": name, "row": row, **line}], {})

        return Part(name, n * cell.table.nfe, n, run)

    def _measured(self, cell: Cell, sample: Callable[[], Tensor]) -> tuple[dict[str, Any], Tensor]:
        """The row of config.images_all_steps samples of a cell, and they."""
        began = time.perf_counter()
        x = sample()
        sampled = Sampled.of(x, Batch(1, len(x), time.perf_counter() - began))
        return measure(cell, sampled, self.proxies.at(self.config.images_all_steps), None).row, x

    def _sample_all_steps(self, cell: Cell, progress: Progress, net: nn.Module | None = None) -> Tensor:
        """config.images_all_steps samples, on the CPU. net: another network than the one that is ready."""
        config, n = self.config, self.config.images_all_steps
        size, net = min(config.batch_size, n), net or self.net
        return engine.sample(
            net, cell.table, n, self.images.shape, seed=config.seed, batch_size=size, progress=progress
        ).cpu()

    def _precision(self) -> Part:
        """The same samples by the network as it is sampled here, and by the plain network in float32."""
        config, process = self.config, self.model.process
        (cell,) = cells.row_of_table_1(process, "0", [max(config.nfes_compared)])

        def run(progress: Progress) -> Outcome:
            def first(done: int, total: int) -> None:
                progress(done, 2 * total)

            def second(done: int, total: int) -> None:
                progress(total + done, 2 * total)

            fast, x = self._measured(cell, lambda: self._sample_all_steps(cell, first))
            with float32(self.device):
                net, _ = stored.load(self.model.folder)
                plain = placement.place(net, placement.reference(self.model.trainer), process.num_steps)
                reference, x32 = self._measured(cell, lambda: self._sample_all_steps(cell, second, plain))
            fast |= {"precision": self.model.trainer["precision"], "difference": float((x - x32).abs().mean())}
            rows = [fast, reference | {"precision": "32-true", "difference": 0.0}]
            return Outcome([{"part": "precision", "row": "0", **row} for row in rows], {})

        n = config.images_all_steps
        return Part("precision", 2 * n * cell.table.nfe, 2 * n, run, cost=(1 + _IN_FLOAT32) / 2)

    def _fine_solution(self) -> Part:
        """What every deterministic cell approximates, kept beside the model."""
        config, process, n = self.config, self.model.process, self.config.images_all_steps
        name = "fine solution"

        def run(progress: Progress) -> Outcome:
            size, began = min(config.batch_size, n), time.perf_counter()
            self._solution.ensure(self.net, process, n, self.images.shape, size)
            return Outcome(
                [{"part": name, "row": "0", "nfe": process.num_steps, "images": n}], {}, time.perf_counter() - began
            )

        return Part(name, n * process.num_steps, n, run, others_need_it=True)

    @property
    def fine(self) -> Tensor | None:
        """The fine-step solution of the first samples, for solver_rmse; None before it is solved."""
        return self._solution.read(self.config.images_all_steps, self.images.shape)

    @property
    def _solution(self) -> FineSolution:
        return FineSolution(self.model.folder, self.model.form, self.config.seed)

    @cached_property
    def _memory(self) -> MemoryCheck:
        return MemoryCheck(self.images, self.device)

    def _reconstruction(self) -> Part:
        """Table 2: held-out images, encoded and decoded in as many steps each."""
        config, nfes = self.config, list(self.config.nfes_back)
        tables = [cells.there_and_back(self.model.process, nfe) for nfe in nfes]
        name, n = "table 2", config.images_back

        def run(progress: Progress) -> Outcome:
            x0 = to_unit(pick(self.images.held_out, n)).to(self.device)
            size = min(config.batch_size, n * len(tables))
            began = time.perf_counter()
            back = engine.sample_many(self.net, tables, start=x0, batch_size=size, progress=progress)
            errors = [float(((x - x0) / 2).square().mean()) for x in back]  # waits for the device
            seconds = time.perf_counter() - began
            rows = [
                {"part": name, "row": "0", "nfe": nfe, "images": n, "mse": error}
                for nfe, error in zip(nfes, errors, strict=True)
            ]
            return Outcome(rows, {}, seconds)

        return Part(name, n * sum(table.nfe for table in tables), n * len(tables), run)

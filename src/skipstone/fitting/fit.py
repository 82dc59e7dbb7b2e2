"""A table fitted to a model: the best known one for so many evaluations, corrected by gradient descent.

Adam moves the corrections on batches of pairs. Every few iterations the table is measured on pairs that are never
fitted, and the best table by that measure is what comes out. Where nothing was better than the base, it is the base.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipstone import engine
from skipstone.engine.gradients import differentiable
from skipstone.fitting.corrections import Corrections, Form
from skipstone.fitting.objective import Objective
from skipstone.process import ForwardProcess
from skipstone.solvers import StepTable

_EVERY = 10  # iterations between two validations
_PATIENCE = 6  # validations in a row that are no better, and then it stops


@dataclass(frozen=True)
class Settings:
    """How a table is fitted.

    iterations:    at most.
    batch_size:    pairs of an iteration, at least 2.
    learning_rate: of Adam. It falls along a cosine.
    held_out:      of all pairs, those that are never fitted.
    seed:          of the order in which pairs come.
    """

    iterations: int = 150
    batch_size: int = 32
    learning_rate: float = 0.02
    held_out: int = 128
    seed: int = 0

    def require(self, pairs: int) -> None:
        """Raise ValueError unless there are enough pairs."""
        if self.batch_size < 2 or not self.held_out + self.batch_size <= pairs:
            raise ValueError(
                f"pairs={pairs} is not allowed: {self.held_out} are held out, and {self.batch_size} are fitted at "
                "once, 2 at least; set pairs, held_out and batch_size accordingly."
            )


@dataclass(frozen=True)
class Fit:
    """What came out.

    table:  the fitted one, or the base.
    base:   its name.
    before: the objective of the base on pairs that were never fitted.
    after:  that of the table. Equal where the base came out.
    curve:  a row per validation: iteration, fitted (mean over the iterations since the last), held_out.
    """

    table: StepTable
    base: str
    before: float
    after: float
    curve: list[dict[str, Any]]

    @property
    def helped(self) -> bool:
        """Whether it is better than the base."""
        return self.after < self.before


class Fitter:
    """Fits tables for one model.

    model, process: the network, which predicts eps, and its process.
    objective:      of the pairs. The last `held_out` of them are never fitted.
    """

    def __init__(
        self, model: engine.Model, process: ForwardProcess, objective: Objective, settings: Settings = Settings()
    ) -> None:
        self.model, self.process, self.objective, self.settings = model, process, objective, settings
        n = len(objective.pairs.start)
        settings.require(n)
        self._fitted, self._held_out = torch.arange(n).split([n - settings.held_out, settings.held_out])

    def best(self, tables: Mapping[str, StepTable]) -> str:
        """The name of the table whose objective on the held-out pairs is the smallest."""
        return min(tables, key=lambda name: self.measure(tables[name]))

    @torch.no_grad()
    def measure(self, table: StepTable) -> float:
        """The objective of a table on the held-out pairs; infinite where samples are not finite."""
        start = table.start_scale * self.objective.pairs.start[self._held_out]
        states = [step.x for step in engine.trajectory(self.model, table, start=start)]
        value = float(self.objective(table, states, self._held_out))
        return value if value == value else float("inf")

    def fit(self, name: str, base: StepTable, progress: Callable[[int, int], None] = lambda done, total: None) -> Fit:
        """The base, corrected.

        name:     of the base.
        progress: called with the numbers of iterations done and of all.
        Raises ValueError for a base that cannot be corrected.
        """
        settings, before = self.settings, self.measure(base)
        corrections = Corrections(Form.of(base, self.process), self.process)
        adam = torch.optim.Adam(corrections.parameters(), settings.learning_rate, betas=(0.9, 0.95))
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.iterations)
        generator = torch.Generator().manual_seed(settings.seed)
        table, after, idle, seen = base, before, 0, []
        curve = [{"iteration": 0, "fitted": None, "held_out": before}]
        with _frozen(self.model, *self.objective.perception.nets):
            for i in range(1, settings.iterations + 1):
                rows = self._fitted[torch.randperm(len(self._fitted), generator=generator)[: settings.batch_size]]
                adam.zero_grad()
                value = self._value(corrections().table(self.process), rows)
                value.backward()
                adam.step()
                falling.step()
                seen.append(value.item())
                progress(i, settings.iterations)
                if i % _EVERY and i < settings.iterations:
                    continue
                with torch.no_grad():
                    tried = corrections().table(self.process)
                found = self.measure(tried)
                curve.append({"iteration": i, "fitted": sum(seen) / len(seen), "held_out": found})
                seen, idle = [], idle + 1
                if found < after:
                    table, after, idle = tried, found, 0
                if idle == _PATIENCE:
                    break
        return Fit(table, name, before, after, curve)

    def _value(self, table: StepTable, rows: Tensor) -> Tensor:
        """The objective on these pairs, with gradients."""
        x = table.start_scale * self.objective.pairs.start[rows]
        states = list(differentiable(self.model, table, x, rows, 0, None))
        return self.objective(table, states, rows)


def longer(table: StepTable, process: ForwardProcess) -> dict[str, StepTable]:
    """The tables with one evaluation more that split one step of this one in two, by name."""
    form = Form.of(table, process)
    return {f"nfe={table.nfe} with step {i} split": form.split(i, process).table(process) for i in range(table.nfe)}


@contextmanager
def _frozen(*models: object) -> Iterator[None]:
    """No gradients for the parameters of these networks, which saves the time that they take."""
    own = [p for model in models if isinstance(model, nn.Module) for p in model.parameters() if p.requires_grad]
    for parameter in own:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in own:
            parameter.requires_grad_(True)

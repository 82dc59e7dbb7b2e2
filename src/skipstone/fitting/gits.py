"""The costs of jumps along a model's trajectories, for `schedules.GITS`; measured once and kept beside the weights."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from skipstone import engine, rng
from skipstone.engine import Model
from skipstone.engine.step import own_parameter
from skipstone.process import ForwardProcess
from skipstone.schedules.gits import Costs, teacher_times
from skipstone.solvers import DPMSolverPP
from skipstone.store import locks, tensors

log = logging.getLogger(__name__)

_TEACHER = DPMSolverPP(order=2)  # one evaluation per step, whose row has the network's own x0
_APART = 1 << 31  # the first sample whose start noise is used: no sampling comes so far
_BATCH = 64


def measure(
    model: Model, process: ForwardProcess, shape: tuple[int, ...], *, samples: int = 256, seed: int = 0
) -> Costs:
    """How far a DDIM step from each time of a fine solution lands from it at each later one.

    A jump starts where the solution is, with the network's eps there, so all jumps together need no more evaluations
    than the solution: 60 per sample. A cost is the mean over samples of the distance in x_t. Where data have unit
    variance, an error in x_t reaches the image at about its own size, so such costs may be added up. The authors
    measure in EDM's scale, x_t/√ᾱ_t, where those errors weigh most that later steps forget.

    model:   eps = model(x, t), with int64 t.
    shape:   (C, H, W) of a sample.
    samples: how many trajectories.
    seed:    of their start noise, which no sampling draws.
    """
    times = teacher_times(process)
    table = _TEACHER.table(process, times[-2::-1])
    parameter = own_parameter(model)
    device = torch.device("cpu") if parameter is None else parameter.device
    total = torch.zeros(len(times), len(times), dtype=torch.float64)
    with torch.compiler.set_stance("force_eager"):  # a compiled network would be compiled again for this batch
        for part in torch.arange(_APART, _APART + samples).split(_BATCH):
            start = table.start_scale * rng.normal(seed, rng.Stream.START, part.to(device), shape)
            total += _distances(start, list(engine.trajectory(model, table, start=start)), process, times).cpu()
    jumps = (total / samples).where(torch.ones_like(total).triu(1) > 0, torch.inf)
    return Costs(times, jumps)


def _distances(start: Tensor, steps: list[engine.Step], process: ForwardProcess, times: tuple[int, ...]) -> Tensor:
    """Of the jump from each time to each later one, summed over samples: float64 [M, M]."""
    t = torch.tensor(times)
    signal = process.alpha_bar(t).sqrt().to(start.device)
    level = process.one_minus_alpha_bar(t).sqrt().to(start.device)
    states = torch.stack([start, *(step.x for step in steps)]).double().flatten(2)
    total = torch.zeros(len(times), len(times), dtype=torch.float64, device=start.device)
    for i, step in enumerate(steps):
        x0 = step.x0.double().flatten(1)
        eps = (states[i] - signal[i] * x0) / level[i]
        landed = signal[i + 1 :, None, None] * x0 + level[i + 1 :, None, None] * eps  # Eq. 12 of the DDIM paper
        total[i, i + 1 :] = (landed - states[i + 1 :]).norm(dim=2).sum(dim=1)
    return total


@dataclass(frozen=True)
class KeptCosts:
    """The costs of one network, kept in the model's folder.

    folder:  the model's.
    form:    what changes the network's predictions: its weights, precision and kernels.
    samples, seed: as for `measure`.
    """

    folder: Path
    form: dict[str, str]
    samples: int = 256
    seed: int = 0

    def ensure(self, model: Model, process: ForwardProcess, shape: tuple[int, ...]) -> Costs:
        """Those that are kept, or else measured now. Processes that need the same costs at once measure them once."""
        costs = self.read()
        if costs is None:
            with locks.held(self._path.with_suffix(".lock"), f"the costs {self._path}"):
                costs = self.read()  # another process may just have measured them
                if costs is None:
                    log.info("measuring the costs of jumps along %d trajectories (once per model)", self.samples)
                    costs = measure(model, process, shape, samples=self.samples, seed=self.seed)
                    later = torch.ones_like(costs.jumps).triu(1) > 0  # what is kept is finite
                    jumps = costs.jumps.where(later, 0.0)
                    tensors.keep({"times": torch.tensor(costs.times), "jumps": jumps}, self._path, self._of)
        return costs

    def read(self) -> Costs | None:
        """The costs that are kept; None where there are none, whole and of this network."""
        kept = tensors.found(self._path, self._of)
        if kept is None:
            return None
        jumps = kept.tensors["jumps"]
        return Costs(tuple(kept.tensors["times"].tolist()), jumps.where(torch.ones_like(jumps).triu(1) > 0, torch.inf))

    @property
    def _path(self) -> Path:
        return self.folder / f"gits-seed{self.seed}.safetensors"

    @property
    def _of(self) -> str:
        """What the metadata of the file says of whose costs they are, and of which jumps."""
        how = {"samples": self.samples, "seed": self.seed, "solver": "ddim", "teacher": _TEACHER.name}
        return json.dumps(self.form | how, sort_keys=True)

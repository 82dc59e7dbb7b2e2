"""The fine-step solution: what a deterministic sampler converges to as its steps grow finer, sample by sample.

It is DDIM over every one of the T steps. A model's solution is solved once and kept beside its weights.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from skipstone import engine
from skipstone.engine import Model
from skipstone.process import ForwardProcess
from skipstone.solvers import DDIM
from skipstone.store import locks, tensors

log = logging.getLogger(__name__)


def solve(
    model: Model,
    process: ForwardProcess,
    n: int,
    shape: tuple[int, ...],
    seed: int,
    batch_size: int,
    to_data: bool = True,
    clip_x0: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Samples 0 … n−1 of `seed` by DDIM (eta = 0) over all T steps.

    model:             eps = model(x, t)
    shape:             (C, H, W) of a sample
    batch_size:        samples per network evaluation
    to_data, clip_x0:  as for solvers.DDIM
    progress:          as for engine.sample

    Returns float32 [n, C, H, W] in the [−1, 1] scale, on the CPU.
    """
    table = DDIM(eta=0.0, to_data=to_data, clip_x0=clip_x0).table(process, range(process.num_steps))
    with torch.compiler.set_stance("force_eager"):  # a compiled network would be compiled again for this batch
        return engine.sample(model, table, n, shape, seed=seed, batch_size=batch_size, progress=progress).cpu()


@dataclass(frozen=True)
class FineSolution:
    """The solution of one network from one seed's start noise, kept in the model's folder.

    folder:            the model's
    form:              what changes the network's predictions: its weights, precision and kernels
    seed:              of the start noise
    to_data, clip_x0:  as for solvers.DDIM
    """

    folder: Path
    form: dict[str, str]
    seed: int
    to_data: bool = True
    clip_x0: bool = False

    def ensure(
        self,
        model: Model,
        process: ForwardProcess,
        n: int,
        shape: tuple[int, ...],
        batch_size: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Tensor:
        """The first n samples: those that are kept, or else solved now (arguments and result as for `solve`).

        Processes that need the same solution at once solve it once.
        """
        x = self.read(n, shape)
        if x is None:
            with locks.held(self._path.with_suffix(".lock"), f"the solution {self._path}"):
                x = self.read(n, shape)  # another process may just have solved it
                if x is None:
                    log.info("solving %d samples over all %d steps (once per model)", n, process.num_steps)
                    x = solve(model, process, n, shape, self.seed, batch_size, self.to_data, self.clip_x0, progress)
                    if x.isfinite().all():
                        self.write(x)
                    else:
                        log.warning("the fine solution is not finite, so solver_rmse has no value")
        return x

    def read(self, n: int, shape: tuple[int, ...]) -> Tensor | None:
        """The first n samples that are kept; None where there are not so many, whole, finite and of this network."""
        kept = tensors.found(self._path, self._of)
        x = None if kept is None else kept.tensors["x"]
        return None if x is None or x.shape[1:] != shape or len(x) < n else x[:n]

    def write(self, x: Tensor) -> None:
        """Keep a solution, float32 [n, C, H, W], in place of the one before."""
        tensors.keep({"x": x}, self._path, self._of)

    @property
    def _path(self) -> Path:
        kind = ("" if self.to_data else "-noisy") + ("-clipped" if self.clip_x0 else "")
        return self.folder / f"fine-seed{self.seed}{kind}.safetensors"

    @property
    def _of(self) -> str:
        """What the metadata of the file says of whose solution it is."""
        return json.dumps(self.form, sort_keys=True)

"""What a table is fitted to: start noise, and the model's own images from it, by a teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor

from skipstone import engine, rng
from skipstone.engine import Model
from skipstone.engine.step import own_parameter
from skipstone.process import ForwardProcess
from skipstone.schedules import Polynomial
from skipstone.solvers import DPMSolverPP

_APART = 3 << 30  # the first sample whose start noise is used: no sampling comes so far, and GITS' samples lie before
_STEPS = 50  # of the teacher
_BATCH = 64


@dataclass(frozen=True)
class Pairs:
    """Trajectories of the teacher: DPM-Solver++ in many steps.

    start:  float32 [N, C, H, W]: start noise, N(0, 1).
    times:  float64 [M]: descending, those of `states`.
    states: float32 [M, N, C, H, W].
    x0:     float32 [M, N, C, H, W]: what the network predicts there.
    end:    float32 [N, C, H, W]: the images.
    """

    start: Tensor
    times: Tensor
    states: Tensor
    x0: Tensor
    end: Tensor

    def at(self, rows: Tensor, t: Tensor, process: ForwardProcess) -> Tensor:
        """The states of these rows at a real time, with its gradient: a DDIM step from the last time that is kept."""
        k = int((self.times >= t.detach()).sum()) - 1
        signal, noise = (root(torch.stack([self.times[k], t])).sqrt() for root in
                         (process.alpha_bar, process.one_minus_alpha_bar))  # fmt: skip
        a = noise[1] / noise[0]
        b = signal[1] - a * signal[0]
        return a.to(self.end) * self.states[k, rows] + b.to(self.end) * self.x0[k, rows]


def solve(model: Model, process: ForwardProcess, shape: tuple[int, ...], n: int, seed: int) -> Pairs:
    """The teacher's trajectories from start noise that no sampling draws.

    n:    how many.
    seed: of the start noise.
    Arguments as for engine.sample; the result is on the model's device.
    """
    times = Polynomial(min(_STEPS, process.num_steps))(process.num_steps)
    table = DPMSolverPP(2).table(process, times)
    parameter = own_parameter(model)
    device = torch.device("cpu") if parameter is None else parameter.device
    parts = []
    with torch.compiler.set_stance("force_eager"):  # a compiled network would be compiled again for this batch
        for index in torch.arange(_APART, _APART + n).split(_BATCH):
            start = rng.normal(seed, rng.Stream.START, index.to(device), shape)
            steps = list(engine.trajectory(model, table, start=table.start_scale * start))
            states = torch.stack([table.start_scale * start, *(step.x for step in steps)])
            parts.append((start, states[:-1], torch.stack([step.x0 for step in steps]), states[-1]))
    start, states, x0, end = zip(*parts, strict=True)
    return Pairs(torch.cat(start), table.t, torch.cat(states, dim=1), torch.cat(x0, dim=1), torch.cat(end))

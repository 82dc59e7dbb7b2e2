"""What can be shown of a table without a network."""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from skipstone.checked import checked
from skipstone.process import ForwardProcess
from skipstone.solvers.portable import require_process
from skipstone.solvers.table import StepTable


@dataclass(frozen=True)
class Proof:
    """Facts about a table.

    evaluations:    of the network per sample.
    rows, history:  rows, and how many earlier ones a row reads at most.
    mean, variance: how far the two identities of Lemma 1 (Song et al. 2021) are missed at the worst row: where the
                    network knows x0, x_t must stay √ᾱ_t x0 + √(1−ᾱ_t) n. Rounding for all solvers but those whose noise
                    is another on purpose, such as sigma=large.
    largest_weight: rounding in float32 grows by about as much.
    stochastic:     whether any row adds noise.
    """

    evaluations: int
    rows: int
    history: int
    mean: float
    variance: float
    largest_weight: float
    stochastic: bool


@checked
def prove(table: StepTable, process: ForwardProcess) -> Proof:
    """Count the table's evaluations and check it against the process.

    Raises ValueError for a table of another process, and for one that clips x0 or asks no network in its first row:
    there x_p is not a linear combination of what the network gave.
    """
    require_process(table, process)
    if table.clip_x0 or table.nfe < len(table.t):
        raise ValueError("a table that clips x0, or leaves out an evaluation, is not linear: build it without.")
    mean, noise = _carried(table, process)
    signal_p, variance_p = process.alpha_bar(table.p).sqrt(), process.one_minus_alpha_bar(table.p)
    return Proof(
        table.nfe,
        len(table.t),
        table.c.shape[1],
        float((mean - signal_p).abs().max()),
        float((noise.square().sum(dim=1) - variance_p).abs().max()),
        table.largest_weight,
        table.stochastic,
    )


def _carried(table: StepTable, process: ForwardProcess) -> tuple[Tensor, Tensor]:
    """For a network that gives x0 itself: the weight of x0 after each row [S], and those of the start's n and all z."""
    count = len(table.t)
    x = torch.zeros(2 + count, dtype=torch.float64)  # of x0, n and each z
    x[0], x[1] = process.alpha_bar(table.f[0]).sqrt(), process.one_minus_alpha_bar(table.f[0]).sqrt()
    x0 = torch.zeros_like(x)
    x0[0] = 1.0
    history: deque[Tensor] = deque(maxlen=table.c.shape[1])
    states = []
    for i in range(count):
        left = table.u[i] * x + table.v[i] * x0
        x = table.a[i] * x + table.b[i] * x0
        for c, h in zip(table.c[i], history, strict=False):
            x = x + c * h
        x[2 + i] += table.s[i]
        history.appendleft(left)
        states.append(x)
    whole = torch.stack(states)
    return whole[:, 0], whole[:, 1:]

"""A table with numbers that can be fitted: corrections on top of a known one, which is what zeros give.

A deterministic sampler sees its start and the x0 of every row, and nothing else. So row i of any of them is

    x_p = a x_t + (√ᾱ_p − a √ᾱ_t) Σ_{j ≤ i} w_ij x0_j ,    Σ_j w_ij = 1

The sum of the weights keeps Lemma 1's mean (Song et al. 2021): where every x0_j is the same image, x_p has √ᾱ_p of it.
Lemma 1's variance asks for a = √(1−ᾱ_p)/√(1−ᾱ_t) besides, which a fit may leave: a network that is asked few times
may see another noise than it was told. Fitted are the visited times, a, w, and the times that the network is given.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from skipstone.process import ForwardProcess
from skipstone.solvers import StepTable
from skipstone.solvers.recursion import states

_SAME = 1e-8


class Form(NamedTuple):
    """A table in the form above, float64.

    t, p:  [S]: where a row predicts x0 and lands; p of a row is t of the next, and at last −1.
    a:     [S].
    w:     [S, S], lower triangular, rows of sum 1.
    asked: [S]: the times that the network is given.
    """

    t: Tensor
    p: Tensor
    a: Tensor
    w: Tensor
    asked: Tensor

    @classmethod
    def of(cls, table: StepTable, process: ForwardProcess) -> "Form":
        """A table's form, whatever it has as its history. Raises ValueError for a table that has none."""
        _require_plain(table)
        unit = torch.eye(1 + len(table.t), dtype=torch.float64)  # the start, and the x0 of each row
        seen = torch.stack([unit[0], *states(table, unit[0], lambda i, x: unit[1 + i])])
        a = seen[1:, 0] / seen[:-1, 0]
        weights = (seen[1:] - a[:, None] * seen[:-1])[:, 1:]
        total = process.alpha_bar(table.p).sqrt() - a * process.alpha_bar(table.t).sqrt()
        if not torch.allclose(weights.sum(dim=1), total, rtol=_SAME, atol=_SAME):
            raise ValueError("it misses Lemma 1's mean, which a fitted table keeps")
        return cls(table.t.double(), table.p.double(), a, weights / total[:, None], table.asked.double())

    def table(self, process: ForwardProcess) -> StepTable:
        """The table: real times, and the x0 of all earlier rows as its history. It has gradients where this has."""
        t, p, a = self.t, self.p, self.a
        signal, noise, signal_p = process.alpha_bar(t).sqrt(), _noise(process, t), process.alpha_bar(p).sqrt()
        weights = (signal_p - a * signal)[:, None] * self.w
        row = torch.arange(len(t))
        earlier = row[:, None] - 1 - row[:-1]  # whose x0 each column of c has, the latest first
        c = weights.gather(1, earlier.clamp(min=0)) * (earlier >= 0)
        zero, one = torch.zeros_like(a), torch.ones_like(a)
        return StepTable(
            t, t, p, signal, noise, a, weights.diagonal(), zero.detach(), c, zero, one, self.asked,
            torch.ones(len(t), dtype=torch.bool), False, process.start_scale(float(t[0].detach())),
        )  # fmt: skip

    def split(self, i: int, process: ForwardProcess) -> "Form":
        """The form with one more row, in the middle of row i; both halves have its weights."""
        t, p = self.t[i], self.p[i]
        middle = (torch.sqrt((t + 1) * (p + 1)) if p > -1 else (t + 1) / 4) - 1
        times = torch.cat([self.t[: i + 1], middle[None], self.t[i + 1 :]])
        old = [*range(i + 1), *range(i, len(self.t))]  # the row that each new one was
        w = torch.zeros(len(times), len(times), dtype=torch.float64)
        column = [*range(i + 1), *range(i + 2, len(times))]  # where the x0 of each old row stands now
        for k, of in enumerate(old):
            w[k, column] = self.w[of]
        w[i + 1, i + 1], w[i + 1, i] = w[i + 1, i], 0
        asked = torch.cat([self.asked[: i + 1], middle.clamp(min=0)[None], self.asked[i + 1 :]])
        off = self.a - _ratio(process, self.t, self.p)  # what a was fitted to be more than Lemma 1's
        off = torch.cat([off[:i], torch.zeros(1, dtype=torch.float64), off[i:]])
        ends = torch.cat([times[1:], self.p[-1:]])
        return Form(times, ends, _ratio(process, times, ends) + off, w, asked)


class Corrections(nn.Module):
    """The corrections of one base, all zero at first. Calling it gives the corrected form, with gradients.

    base:    a form whose last row lands on clean data.
    process: of the base.

    Parameters are float64, S is the number of rows:
    steps:   [S], of the logarithms of the steps t − p, whose sum stays, so both ends of the way are the base's.
    a:       [S].
    w:       [S, S], below the diagonal. The weight of a row's own x0 takes what is left of 1.
    asked:   [S], of the logarithm of t + 1 where the network is asked.
    """

    def __init__(self, base: Form, process: ForwardProcess) -> None:
        super().__init__()
        self.base, self.process = base, process
        S = len(base.t)
        self.steps, self.a, self.asked = (nn.Parameter(torch.zeros(S, dtype=torch.float64)) for _ in range(3))
        self.w = nn.Parameter(torch.zeros(S, S, dtype=torch.float64))

    def forward(self) -> Form:
        """The corrected form."""
        base = self.base
        first, end = base.t[:1], base.p[-1:]
        steps = (first - end) * torch.softmax(torch.log(base.t - base.p) + self.steps, dim=0)
        t = torch.cat([first, first - steps.cumsum(0)[:-1]])
        p = torch.cat([t[1:], end])
        a = base.a + (_ratio(self.process, t, p) - _ratio(self.process, base.t, base.p)) + self.a
        earlier = (base.w + self.w).tril(-1)
        w = earlier + torch.diag(1 - earlier.sum(dim=1))
        asked = (t + 1) * (base.asked + 1) / (base.t + 1) * torch.exp(self.asked) - 1
        return Form(t, p, a, w, asked.clamp(0, self.process.num_steps - 1))


def _noise(process: ForwardProcess, t: Tensor) -> Tensor:
    return process.one_minus_alpha_bar(t).sqrt()


def _ratio(process: ForwardProcess, t: Tensor, p: Tensor) -> Tensor:
    """√(1−ᾱ_p)/√(1−ᾱ_t): a, as Lemma 1's variance asks for it. The last p is clean data, where a root has no slope."""
    return torch.cat([_noise(process, p[:-1]), torch.zeros_like(p[-1:])]) / _noise(process, t)


def _require_plain(table: StepTable) -> None:
    """Raise ValueError unless the table has such a form, and lands on clean data."""
    if table.stochastic:
        raise ValueError("it adds noise, and a fitted table is deterministic")
    if table.clip_x0:
        raise ValueError("it clips x0, and a fitted table does not")
    descends = torch.equal(table.f, table.t) and bool((table.t > table.p).all())
    if not (descends and torch.equal(table.t[1:], table.p[:-1]) and bool(table.evaluated.all())):
        raise ValueError("it has not one evaluation per step")
    if table.p[-1] != -1:
        raise ValueError("it does not take the last step to clean data")

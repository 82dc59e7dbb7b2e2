"""Continuous batching: many tables of different lengths in one batch that stays full.

Each of B slots runs a sample of some table. A slot whose sample is done is refilled with the next one. Which slot
finishes when is known beforehand, so the host plans everything, uploads the plan once, and the device never waits.
n samples of every table then cost about Σ NFE · n / B network calls on a full batch, whatever the tables' lengths.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skipstone.checked import checked
from skipstone.engine.known import Known, landings
from skipstone.engine.request import (
    batch_of,
    count_and_shape,
    require_first,
    require_labels,
    require_noise,
    require_run,
    scaled,
    starts,
    with_guidance,
)
from skipstone.engine.slots import slots_for
from skipstone.engine.step import Model, Row, advance, columns, evaluating
from skipstone.rng import Stream, normal
from skipstone.solvers import StepTable


class Plan(NamedTuple):
    """Which sample runs where and when: int64 [samples of all tables], in the order in which they begin.

    begin, end:    the step of the batch in which the sample begins, and the one after its last.
    slot:          the slot that runs it.
    table, sample: the sample's table, and its index k there.
    """

    begin: Tensor
    end: Tensor
    slot: Tensor
    table: Tensor
    sample: Tensor

    @property
    def steps(self) -> int:
        """Network calls on the full batch."""
        return int(self.end.max())


def plan(lengths: Sequence[int], n: int, slots: int) -> Plan:
    """n samples of each table on `slots` slots, the longest first: each goes to the slot that is free soonest.

    So the slots are left idle at the end by the shortest samples, not by the longest (Graham 1969: at most 4/3 of the
    best plan).
    """
    free = [(0, slot) for slot in range(slots)]
    turns = []
    for table in sorted(range(len(lengths)), key=lambda table: -lengths[table]):
        for sample in range(n):
            begin, slot = heapq.heappop(free)
            end = begin + lengths[table]
            turns.append((begin, end, slot, table, sample))
            heapq.heappush(free, (end, slot))
    return Plan(*torch.tensor(sorted(turns)).T)


@checked
@torch.no_grad()
def sample_many(
    model: Model,
    tables: Sequence[StepTable],
    n: int | None = None,
    shape: tuple[int, ...] | None = None,
    *,
    seed: int = 0,
    start: Tensor | None = None,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] = lambda done, total: None,
    first: int = 0,
    known: tuple[Tensor, Tensor] | None = None,
    labels: Tensor | None = None,
    guidance: float | None = None,
    guidance_interval: Sequence[float] | None = None,
) -> list[Tensor]:
    """n samples of every table, from the same start noise, in batches that stay full to the end.

    tables:     at least one; their lengths may differ. If any has real times, the network gets float64 t for all.
    batch_size: number of slots. Every network call has this batch. Default: all samples, at most 256.
    Other arguments as for `sample`. Sample k has the same label in every table, and guidance is of all tables:
    `solvers.guided` makes single ones.
    Returns one [n, C, H, W] per table: what `sample` gives for it, to the rounding of another batch. All samples stay
    on the model's device until the last is done.
    """
    if not tables:
        raise ValueError("give at least one table.")
    require_run(model, tables, dtype)
    count, shape = count_and_shape(n, shape, start)
    require_first(first, count)
    tables = with_guidance(tables, guidance, guidance_interval)
    require_labels(model, tables, labels, count)
    if start is None:
        for table in tables:
            require_noise(table)
    slots = batch_of(batch_size, count * len(tables))
    todo = plan([table.nfe for table in tables], count, slots)
    # part by part, because a generator takes many times the memory of what it draws
    index = torch.arange(first, first + count)
    x = torch.cat([starts(model, shape, seed, part, start, dtype, first=first) for part in index.split(slots)])
    done = x.new_empty(len(tables) * count, *shape)
    pixels = None if known is None else Known.of(known, x.shape).at(torch.arange(count), x)

    scales = [table.start_scale if start is None else 1.0 for table in tables]
    x, left, opening = _opened(tables, scales, x, index, seed, pixels)
    # For each step of the plan: which samples begin before it, and which have ended after it
    ends_at = torch.tensor([len(table.t) for table in tables]).cumsum(0)
    row = ends_at - torch.tensor([table.nfe for table in tables])  # the first that asks the network
    begun = opening[todo.table] * count + todo.sample
    place = (todo.slot + first) % slots  # one table's sample k is always in slot k % slots, as in `sample`
    beginning = (place, begun, todo.sample, row[todo.table])
    if labels is not None:
        beginning += (labels.cpu()[todo.sample],)
    begins = _Events(todo.begin, todo.steps, beginning, x.device)
    ends = _Events(todo.end - 1, todo.steps, (place, todo.table * count + todo.sample), x.device)
    noisy = _noisy(todo, tables)

    batch = slots_for(model, tables, slots, x, labels is not None, pixels is not None)
    batch.load(tables, seed)
    with evaluating(model):
        for i in range(todo.steps):
            slot, begun, sample, at, *label = begins.at(i)
            if len(slot):
                batch.fill(slot, x[begun], None if left is None else left[begun], first + sample, at, *label)
                if pixels is not None:
                    batch.keep(slot, pixels.at(sample, x))
            batch.step(model, noisy[i] or pixels is not None)
            slot, kept = ends.at(i)
            if len(slot):
                done[kept] = batch.x[slot]
            progress(i + 1, todo.steps)
    return list(done.split(count))


def _opened(
    tables: Sequence[StepTable],
    scales: Sequence[float],
    first: Tensor,
    index: Tensor,
    seed: int,
    known: Known | None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The states from which the tables' evaluated rows start, at `scales` of `first`.

    A first row that asks no network is run here. Returns the states, one block like `first` below the other; what each
    has left, or None where all start from `first`; and each table's block.
    """
    states, left, opening = [first], [torch.zeros_like(first)], []
    blocks = {1.0: 0}
    for table, scale in zip(tables, scales, strict=True):
        if scale not in blocks:
            blocks[scale] = len(states)
            states.append(scaled(first, scale))
            left.append(left[0])
        opening.append(blocks[scale])
        if table.nfe < len(table.t):
            row, z = Row.of(columns(table, table.c.shape[1])[0].tolist(), mixed=False), None
            if row.s != 0 or known is not None:
                key = int(table.noise_keys[0])
                z = normal(seed, Stream.STEP, index.to(first.device), first.shape[1:], key, first.dtype)
            x = states[opening[-1]]
            x, _, h = advance(row, x, x, (), z)
            if known is not None:
                x = known.kept(x, *landings(table)[0].tolist(), z)
            opening[-1] = len(states)
            states.append(x)
            left.append(left[0] if h is None else h)
    if len(states) == 1:
        return first, None, torch.tensor(opening)
    return torch.cat(states), torch.cat(left), torch.tensor(opening)


class _Events:
    """Columns of a plan, grouped by the step at which they happen; on the device from the start."""

    def __init__(self, when: Tensor, steps: int, columns: tuple[Tensor, ...], device: torch.device) -> None:
        order = torch.argsort(when, stable=True)
        self._columns = [column[order].to(device) for column in columns]
        self._bounds = [0, *torch.bincount(when, minlength=steps).cumsum(0).tolist()]

    def at(self, step: int) -> list[Tensor]:
        """The columns' entries of this step."""
        begin, end = self._bounds[step : step + 2]
        return [column[begin:end] for column in self._columns]


def _noisy(todo: Plan, tables: Sequence[StepTable]) -> list[bool]:
    """For every step, whether any sample that runs then may add noise."""
    stochastic = torch.tensor([table.stochastic for table in tables])[todo.table]
    change = torch.zeros(todo.steps + 1, dtype=torch.int64)
    change.index_add_(0, todo.begin, stochastic.long())
    change.index_add_(0, todo.end, -stochastic.long())
    return (change.cumsum(0) > 0).tolist()

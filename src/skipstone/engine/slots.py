"""A batch of samples in flight, each at its own row, and the step that takes all of them one row on.

Where the model allows it, the step is recorded once as a CUDA graph and replayed. The host then launches one thing per
step instead of some hundreds, for which small batches would wait.
"""

from collections import OrderedDict
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from skipstone.engine.known import Known, landings
from skipstone.engine.step import Model, Row, advance, columns, null_label, own_parameter, predict
from skipstone.rng import Stream, as_key, normal
from skipstone.solvers import StepTable

_KEPT = 4  # recordings per model
_ROWS = 1024  # that a recording has room for, at least


class Slots:
    """Slots on one device. All tensors stay where they are, so that a recording of `step` remains valid.

    size:    B, the number of slots. Attribute `x` holds their states, [B, *shape].
    shape:   of a sample, such as (C, H, W).
    rows:    of all tables together, at most.
    history: how many earlier rows a step may read.
    times:   of the network's times: int64, or float64 if any table has real times.
    keyed:   whether noise has keys of its own. Otherwise they are the times.
    labels:  whether samples have labels.
    mixed:   whether rows may mix what the row before has left (guidance).
    dtype:   of the states.
    known:   whether the samples have known pixels.
    device:  of all tensors.
    """

    def __init__(
        self,
        size: int,
        shape: tuple[int, ...],
        rows: int,
        history: int,
        times: torch.dtype,
        keyed: bool,
        labels: bool,
        mixed: bool,
        dtype: torch.dtype,
        known: bool,
        device: torch.device,
    ) -> None:
        self.x = torch.zeros(size, *shape, dtype=dtype, device=device)
        self._history = [torch.zeros_like(self.x) for _ in range(history)]
        self._row, self._sample = torch.zeros(2, size, dtype=torch.int64, device=device)
        self._flat = torch.zeros(rows, len(Row._fields) - 1 + history, dtype=dtype, device=device)
        self._times = torch.zeros(rows, dtype=times, device=device)
        self._keys = torch.zeros(rows, dtype=torch.int64, device=device) if keyed else None
        self._labels = torch.zeros(size, dtype=torch.int64, device=device) if labels else None
        self._null = torch.zeros(rows, dtype=torch.bool, device=device)
        self._mixed = mixed
        self._seed = torch.zeros(1, dtype=torch.int64, device=device)
        self._known = Known(torch.zeros_like(self.x), torch.zeros_like(self.x, dtype=torch.bool)) if known else None
        self._landings = torch.zeros(rows, 2, dtype=dtype, device=device) if known else None
        self._graphs: dict[bool, torch.cuda.CUDAGraph] | None = None

    def load(self, tables: Sequence[StepTable], seed: int) -> None:
        """Take the rows of all tables, one table below the other, and the seed of the steps' noise."""
        flat = torch.cat([columns(table, len(self._history)) for table in tables])
        times = torch.cat([table.asked.to(self._times.dtype) for table in tables])
        # past the end the last row is repeated, where a slot runs on that nobody needs any more
        at = torch.arange(len(self._times)).clamp(max=len(times) - 1)
        self._flat.copy_(flat[at])
        self._times.copy_(times[at])
        self._null.copy_(torch.cat([table.null for table in tables])[at])
        if self._keys is not None:
            self._keys.copy_(torch.cat([table.noise_keys for table in tables])[at])
        if self._landings is not None:
            self._landings.copy_(torch.cat([landings(table) for table in tables])[at])
        self._seed.fill_(as_key(seed))

    def fill(
        self, slot: Tensor, x: Tensor, left: Tensor | None, sample: Tensor, row: Tensor, labels: Tensor | None = None
    ) -> None:
        """Let new samples begin in some slots. All is overwritten, so a sample that diverged leaves nothing behind.

        slot:   int64 [M]: which slots.
        x:      [M, C, H, W]: where the samples start.
        left:   [M, C, H, W]: what a row before the first one has left; None if there is no such row.
        sample: int64 [M]: their indices k.
        row:    int64 [M]: their first rows, counted over all tables.
        labels: int64 [M], where samples have labels.
        """
        if labels is not None:
            self._labels[slot] = labels
        self.x[slot], self._sample[slot], self._row[slot] = x, sample, row
        for h in self._history:
            h.index_fill_(0, slot, 0)  # a number assigned by [] would make the host wait
        if left is not None and self._history:
            self._history[0][slot] = left

    def keep(self, slot: Tensor, known: Known) -> None:
        """Give the samples that begin in some slots their known pixels."""
        self._known.x0[slot], self._known.mask[slot] = known

    def step(self, model: Model, noisy: bool) -> None:
        """Take every slot one row on. noisy: whether any of them may add noise."""
        if self._graphs is None:
            self._advance(model, noisy)
            return
        if noisy not in self._graphs:
            with torch.cuda.device(self.x.device):
                self._graphs[noisy] = self._record(model, noisy)
        self._graphs[noisy].replay()

    def _advance(self, model: Model, noisy: bool) -> None:
        row = Row.of(_beside(self.x, self._flat[self._row]), self._mixed)
        t, labels = self._times[self._row], self._labels
        if labels is not None and null_label(model) is not None:
            labels = torch.where(self._null[self._row], null_label(model), labels)
        eps = predict(model, self.x, t, labels)
        z = None
        if noisy:
            key = t if self._keys is None else self._keys[self._row]
            z = normal(self._seed, Stream.STEP, self._sample, self.x.shape[1:], key, self.x.dtype)
        x, _, left = advance(row, self.x, eps, self._history, z)
        if self._known is not None:
            x = self._known.kept(x, *_beside(self.x, self._landings[self._row]), z)
        if left is not None:
            for k in reversed(range(1, len(self._history))):
                self._history[k].copy_(self._history[k - 1])
            self._history[0].copy_(left)
        self.x.copy_(x)
        self._row.add_(1).clamp_(max=len(self._times) - 1)

    def _record(self, model: Model, noisy: bool) -> torch.cuda.CUDAGraph:
        """The step as a graph. It is run once before, so that kernels are compiled and chosen by then."""
        state = (self.x, self._row, *self._history)
        before = [tensor.clone() for tensor in state]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._advance(model, noisy)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._advance(model, noisy)
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        return graph


def _beside(x: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """The columns of values, [B, K], each as [B, 1, …] to go with x, [B, …] of any rank."""
    return values.T.view(*values.T.shape, *(1 for _ in x.shape[1:])).unbind()


_recorded: WeakKeyDictionary[nn.Module, OrderedDict[tuple, Slots]] = WeakKeyDictionary()


def recordable(model: Model) -> bool:
    """Whether calls of the model may be recorded: its attribute `recordable` is true, and it is on a CUDA device.

    Such a model never waits for the device, never branches on the values there, and keeps its weights where they are.
    """
    parameter = own_parameter(model)
    return getattr(model, "recordable", False) and parameter is not None and parameter.is_cuda


def slots_for(model: Model, tables: Sequence[StepTable], size: int, like: Tensor, labels: bool, known: bool) -> Slots:
    """Slots for all rows of these tables. Those of a recordable model are kept for the next call.

    model:  as for `sample`.
    tables: give the number of rows and of history, and the dtype of times.
    size:   number of slots.
    like:   [n, C, H, W], gives shape, dtype and device.
    labels: whether samples have labels.
    known:  whether the samples have known pixels.
    """
    rows, history = sum(len(table.t) for table in tables), max(table.c.shape[1] for table in tables)
    times = torch.float64 if any(table.asked.is_floating_point() for table in tables) else torch.int64
    keyed = times == torch.float64 or any(
        table.stochastic and not torch.equal(table.noise_keys, table.asked) for table in tables
    )
    mixed = any(table.guided for table in tables)
    if not recordable(model):
        return Slots(size, like.shape[1:], rows, history, times, keyed, labels, mixed, like.dtype, known, like.device)
    rows = max(_ROWS, 1 << (rows - 1).bit_length())  # so that tables of other lengths find the recording too
    kept = _recorded.setdefault(model, OrderedDict())
    key = (size, like.shape[1:], rows, history, times, keyed, labels, mixed, like.dtype, known)
    if key not in kept:
        while len(kept) >= _KEPT:
            kept.popitem(last=False)
        with torch.inference_mode(False):  # what is kept must also do for a caller outside of it
            kept[key] = Slots(*key, like.device)
        kept[key]._graphs = {}
    kept.move_to_end(key)
    return kept[key]

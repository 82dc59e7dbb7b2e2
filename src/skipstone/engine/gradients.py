"""A table run so that its result has gradients, row by row from checkpoints."""

from collections.abc import Iterator

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from skipstone.engine.known import Known, landings
from skipstone.engine.step import Model, Row, advance, columns, evaluating, labels_of, predict
from skipstone.rng import Stream, normal
from skipstone.solvers import StepTable


def differentiable(
    model: Model,
    table: StepTable,
    x: Tensor,
    index: Tensor,
    seed: int,
    step_noise: Tensor | None,
    known: Known | None = None,
    labels: Tensor | None = None,
) -> Iterator[Tensor]:
    """The state after each row, with gradients with respect to x, the network's parameters and the table's columns.

    model, table, seed: as for `sample`.
    x:                  [N, C, H, W]: where the samples start.
    index:              int64 [N]: which samples they are.
    labels:             int64 [N], or None.
    step_noise:         z of every row, [S, N, C, H, W], in place of the seed's.
    known:              of these samples.
    """
    index = index.to(x.device)
    asked, keys = table.asked.to(x.device), table.noise_keys.tolist()
    mixed, labels = (table.w != 0).tolist(), labels_of(model, table, None if labels is None else labels.to(x.device))
    values, noisy = columns(table, table.c.shape[1]).to(x), ((table.s != 0) | (known is not None)).tolist()
    landing = None if known is None else landings(table).tolist()

    def run(i: int, values: Tensor, x: Tensor, *history: Tensor) -> tuple[Tensor, Tensor | None]:
        with evaluating(model):  # here, because it is run again when the caller is back in another mode
            eps = predict(model, x, asked[i].expand(len(x)), labels[i]) if table.evaluated[i] else x
        z = None
        if noisy[i]:
            drawn = step_noise is None
            z = normal(seed, Stream.STEP, index, x.shape[1:], keys[i], x.dtype) if drawn else step_noise[i].to(x)
        x, _, h = advance(Row.of(values.unbind(), mixed[i]), x, eps, history, z)
        return x if landing is None else known.kept(x, *landing[i], z), h

    history: list[Tensor] = []
    for i in range(len(table.t)):
        x, h = checkpoint(run, i, values[i], x, *history, use_reentrant=False, preserve_rng_state=False)
        history = [] if h is None else [h, *history][: table.c.shape[1]]
        yield x

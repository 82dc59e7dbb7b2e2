"""O-BELM: a linear step through two states, which is undone exactly and explicitly."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skipstone.checked import check_fields, checked
from skipstone.process import ForwardProcess
from skipstone.solvers.table import Path, Steps, StepTable, ascend, ddim_row, descend, eps_row, noise_ratio


@dataclass(frozen=True)
class BELM:
    """O-BELM (Wang et al. 2024), the optimal bidirectional explicit linear step. One evaluation a row, order 2.

    With y = x/√ᾱ, r = √((1−ᾱ)/ᾱ), a step of size h that leaves the state i, and h' the step before:

        y_{i+1} = (h/h')² y_{i−1} + (1 − (h/h')²) y_i + h (1 + h/h') eps_i

    Here i + 1 is the next state on the way, down or up. Each row leaves its own state, so the state before is its
    history. Solved for y_{i−1}, this is the same step on the way back, with the same eps_i: what an `encode_table` has
    done to an image, a `return_table` undoes to rounding, from the last two states (`engine.sample_pair`).

    The first row of `table` and `encode_table` is DDIM's, because there is no state before it. An error that
    alternates from state to state grows by (h/h')² a step, so on steps of growing size the latents are far from those
    of a fine solution: the way back is exact, but edits of the latents are carried far.

    to_data, clip_x0: as for DDIM.
    """

    name: ClassVar[str] = "o_belm"
    to_data: bool = True
    clip_x0: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    @checked
    def table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from noise to data over the visited steps (ascending)."""
        return self._table(process, descend(timesteps, process.num_steps, self.to_data), self.clip_x0)

    @checked
    def encode_table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from data to noise. It starts on clean data if `to_data`, else at the first visited step."""
        return self._table(process, ascend(timesteps, process.num_steps, self.to_data, self.clip_x0), False)

    @checked
    def return_table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table that undoes `encode_table`, from its last state but one, with its last state as what was left."""
        up = ascend(timesteps, process.num_steps, self.to_data, self.clip_x0)
        if len(up.f) < 2:
            raise ValueError("a way back through two states needs three of them: visit one more step.")
        levels = torch.cat([up.f, up.p[-1:]]).flip(0)  # from noise to data
        path = Path(levels[1:-1], levels[1:-1], levels[2:])
        return _built(process, path, *self._rows(process, path, levels[:-2]), False)

    def _table(self, process: ForwardProcess, path: Path, clip_x0: bool) -> StepTable:
        later = Path(*(column[1:] for column in path))  # the first row has no state before it
        a, b = ddim_row(process, path)
        c = torch.zeros_like(a)
        if len(a) > 1:
            a[1:], b[1:], c[1:] = self._rows(process, later, path.f[:-1])
        return _built(process, path, a, b, c, clip_x0)

    def _rows(self, process: ForwardProcess, path: Path, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(a, b, c) of the step above from each f, where the state before was at `before`."""
        signal_p, r = torch.sqrt(process.alpha_bar(path.p)), noise_ratio(process, path.f)
        h, h_before = noise_ratio(process, path.p) - r, r - noise_ratio(process, before)
        ratio = h / h_before
        a, b = eps_row(process, path, signal_p * h * (1 + ratio))
        a = a - ratio**2 * signal_p / torch.sqrt(process.alpha_bar(path.f))
        return a, b, ratio**2 * signal_p / torch.sqrt(process.alpha_bar(before))


def _built(process: ForwardProcess, path: Path, a: Tensor, b: Tensor, c: Tensor, clip_x0: bool) -> StepTable:
    """Rows that leave x itself."""
    return StepTable.build(process, path, a, b, None, c[:, None], torch.ones_like(a), None, clip_x0)

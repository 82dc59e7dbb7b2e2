"""A table as a scheduler of diffusers: a pipeline then gives the images that `engine.sample` gives."""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from skipstone.engine.step import Row, advance, columns
from skipstone.solvers import StepTable
from skipstone.solvers.portable import table_data, table_of

try:
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from diffusers.utils.torch_utils import randn_tensor
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "skipstone.diffusers needs diffusers, which is not installed: pip install diffusers."
    ) from None


class TableScheduler(SchedulerMixin, ConfigMixin):
    """Any table in the place of a scheduler: `pipeline.scheduler = TableScheduler(table)`.

    The pipeline's network must predict eps. It is called once per row, so num_inference_steps is the number of rows. A
    row that asks no network is called as well, and the answer is not used. A table brings its own steps, eta and
    clipping, and none of them can be changed here. Rows are computed in float32, or in float64 where the pipeline's
    state is.

    table: a StepTable, or what a file of `save_table` holds, as a dictionary. The configuration is the latter, so
           `save_pretrained` and `from_pretrained` keep every number to the last bit. Raises ValueError for what is no
           table.
    """

    order = 1

    def __init__(self, table: StepTable | dict[str, Any]) -> None:
        data = table_data(table) if isinstance(table, StepTable) else table
        self.register_to_config(table=data)
        self._table = table_of(data, "the configuration")
        if bool(self._table.null.any()):
            raise ValueError(
                "a guided table asks with labels, which a pipeline does not hand on: give the one without guidance."
            )
        self._rows = columns(self._table, self._table.c.shape[1]).tolist()
        self.init_noise_sigma = self._table.start_scale
        self.set_timesteps()

    def set_timesteps(self, num_inference_steps: int | None = None, device: str | torch.device | None = None) -> None:
        """Begin again. Raises ValueError for another number than that of the table's rows."""
        if num_inference_steps not in (None, len(self._rows)):
            raise ValueError(
                f"num_inference_steps={num_inference_steps} is not allowed: this table has its own steps, so give "
                f"num_inference_steps={len(self._rows)}."
            )
        self.num_inference_steps = len(self._rows)
        self.timesteps = self._table.asked.to(device)
        self._history: deque[Tensor] = deque(maxlen=self._table.c.shape[1])
        self._step_index: int | None = None
        self._begin_index: int | None = None

    @property
    def step_index(self) -> int | None:
        """The row that is next; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The row to begin with, where a pipeline has set it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin with this row, as pipelines from image to image do."""
        self._begin_index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """The sample itself: the network sees x_t as it is."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """The next row.

        model_output: eps, like sample.
        timestep:     that of the row.
        sample:       float [N, C, H, W].
        generator:    of the noise that the row adds, if it adds any.
        Raises ValueError for a timestep out of turn, a begin at a row that reads what earlier ones left, another output
        than eps, and for an eta, because that is the table's own.
        """
        if eta or use_clipped_model_output:
            raise ValueError("eta and use_clipped_model_output are not allowed: the table has its own, leave them out.")
        if model_output.shape != sample.shape:
            raise ValueError(
                f"the network gave {tuple(model_output.shape)} for a sample of {tuple(sample.shape)}: it must predict "
                "eps alone."
            )
        i = self._turn(timestep)
        row = Row.of(self._rows[i], mixed=False)
        x = sample if sample.dtype == torch.float64 else sample.float()
        eps = model_output.to(x.dtype) if self._table.evaluated[i] else x
        z = randn_tensor(x.shape, generator, x.device, x.dtype) if row.s != 0 else None
        x, x0, left = advance(row, x, eps, self._history, z)
        if left is not None:
            self._history.appendleft(left)
        self._step_index = i + 1
        x, x0 = x.to(sample.dtype), x0.to(sample.dtype)
        return DDIMSchedulerOutput(prev_sample=x, pred_original_sample=x0) if return_dict else (x, x0)

    def _turn(self, timestep: float | Tensor) -> int:
        """The row whose turn it is, which must have this timestep."""
        t, asked = float(timestep), self._table.asked.double()
        if self._step_index is not None:
            i = self._step_index
        elif self._begin_index is not None:
            i = self._begin_index
        else:
            i = int((asked == t).double().argmax())
        if i >= len(self._rows) or asked[i] != t:
            raise ValueError(
                f"timestep={t:g} is not the next of this table: take scheduler.timesteps in order, after set_timesteps."
            )
        if bool((self._table.c[i, len(self._history) :] != 0).any()):
            raise ValueError(
                f"row {i} of this table reads what earlier rows left, so it cannot be the first: begin at row 0, or "
                "use a solver without history."
            )
        return i

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ_t x0 + √(1−ᾱ_t) noise.

        timesteps: [N], each of them one that the table visits. Raises ValueError for others.
        """
        same = timesteps.cpu().double()[:, None] == self._table.asked.double()
        if not bool(same.any(dim=1).all()):
            raise ValueError(f"timesteps={timesteps.tolist()} must be among those of the table, scheduler.timesteps.")
        rows = same.double().argmax(dim=1)
        shape = (-1,) + (1,) * (original_samples.ndim - 1)
        signal, level = (
            column[rows].to(original_samples).view(shape)
            for column in (self._table.sqrt_alpha_bar, self._table.sqrt_one_minus_alpha_bar)
        )
        return signal * original_samples + level * noise

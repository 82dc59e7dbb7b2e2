"""A training step as one CUDA graph: from the bytes of the images to the gradients.

A step is some two thousand small launches, which take a host longer than the GPU needs to carry them out.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Recording:
    """loss(images, step, labels) and its gradients, recorded once and replayed for every step.

    loss: a scalar; everything random in it is a function of the step, int64 [1].  parameters: what is trained; they
    stay where they are.  batch: tensors like those to come: images, and their labels where there are any.
    """

    def __init__(
        self, loss: Callable[..., Tensor], parameters: Sequence[nn.Parameter], batch: Sequence[Tensor]
    ) -> None:
        self._batch = [part.clone() for part in batch]
        self._step = torch.zeros(1, dtype=torch.int64, device=batch[0].device)
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        # a weight's cast must be part of every replay, not of an earlier step's memory
        torch.clear_autocast_cache()
        casts = torch.autocast("cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), False)
        with casts:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # its result is thrown away: this compiles and chooses kernels
                loss(*self._given()).backward()
            torch.cuda.current_stream().wait_stream(aside)
            self.release()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                recorded = loss(*self._given())
                recorded.backward()
                self._loss = recorded.detach()
        self._gradients = [parameter.grad for parameter in self._parameters]
        self.release()

    def _given(self) -> tuple[Tensor, ...]:
        images, *labels = self._batch
        return images, self._step, *labels

    def __call__(self, batch: Sequence[Tensor], step: int) -> Tensor:
        """The loss of a step; its gradients wait for `deliver`."""
        for part, recorded in zip(batch, self._batch, strict=True):
            if part.shape != recorded.shape:
                raise ValueError(f"a batch of shape {tuple(part.shape)}, where {tuple(recorded.shape)} was recorded.")
            recorded.copy_(part)
        self._step.fill_(step)
        self._graph.replay()
        return self._loss.clone()

    def deliver(self) -> None:
        """Let the parameters have the last step's gradients."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def release(self) -> None:
        """Let the parameters have none."""
        for parameter in self._parameters:
            parameter.grad = None

"""Batches for Lightning: gathered whole from one uint8 tensor, in an order that is a function of (seed, step).

With CUDA the images lie on the device, where a batch is gathered without the host taking part.
"""

from collections.abc import Iterator

import lightning
import torch
from torch import Tensor

from skipstone import rng
from skipstone.data import ImageSet
from skipstone.rng import Stream

VALIDATION_BATCH = 250
VALIDATION_IMAGES = 2000  # at most; they come shuffled from every data set
_SHARE = 0.25  # of a device's free memory that the images may take


class StepSampler:
    """The training images of every step: one pass over the whole training, not over the data.

    Epochs of the data are laid end to end, each shuffled by (seed, epoch), and cut into batches, so step k's images
    depend on nothing but (seed, k). A device takes its share of the global batch. Yields int64 [share], on `device`.
    """

    def __init__(
        self,
        size: int,
        batch: int,
        steps: int,
        seed: int,
        first: int = 0,
        rank: int = 0,
        ranks: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch % ranks:
            raise ValueError(f"training.batch_size={batch} cannot be shared by {ranks} devices: make it a multiple.")
        self.size, self.batch, self.steps, self.seed, self.first = size, batch, steps, seed, first
        self.rank, self.ranks, self.device = rank, ranks, device

    def __iter__(self) -> Iterator[Tensor]:
        share = self.batch // self.ranks
        epoch, order = -1, torch.empty(0)
        for step in range(self.first, self.steps):
            position = step * self.batch + self.rank * share
            end, pieces = position + share, []
            while position < end:
                if position // self.size != epoch:
                    epoch = position // self.size
                    order = self._order(epoch)
                piece = order[position % self.size :][: end - position]
                pieces.append(piece)
                position += len(piece)
            yield pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(rng.fold(self.seed, Stream.TRAIN_ORDER, epoch))
        order = torch.randperm(self.size, generator=generator)  # by the host, whose bits are the same everywhere
        on_host = torch.device(self.device).type == "cpu"
        return order if on_host else order.pin_memory().to(self.device, non_blocking=True)


class Batches:
    """What Lightning iterates over: uint8 [n, C, H, W], gathered where the images lie by each of `indices`.

    labels: int64, one per image, beside them. Batches are then pairs of images and labels.
    steps: its length, which counts what a resumed training has done already: Lightning does so, too.
    pinned: copy batches to where a device can fetch them while the host goes on.
    """

    def __init__(
        self,
        images: Tensor,
        indices: StepSampler | tuple[Tensor, ...],
        steps: int,
        pinned: bool,
        labels: Tensor | None = None,
    ) -> None:
        self.images, self.indices, self.steps, self.pinned = images, indices, steps, pinned
        self.labels = None if labels is None else labels.to(images.device)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        for index in self.indices:
            images = self._picked(self.images, index)
            yield images if self.labels is None else (images, self._picked(self.labels, index))

    def _picked(self, of: Tensor, index: Tensor) -> Tensor:
        batch = of.index_select(0, index)
        return batch.pin_memory() if self.pinned else batch


class ImageData(lightning.LightningDataModule):
    """Training batches by step, and the held-out images once over. Batches are as for `Batches`.

    steps: batches of the whole training.  first: the one that a resumed training begins with.
    labelled: whether labels come with the images.
    """

    def __init__(
        self, images: ImageSet, batch_size: int, seed: int, steps: int, first: int = 0, labelled: bool = False
    ) -> None:
        super().__init__()
        self.images, self.batch_size, self.seed, self.steps, self.first = images, batch_size, seed, steps, first
        self.labelled = labelled

    def train_dataloader(self) -> Batches:
        images = place(self.images.train, self.trainer.strategy.root_device)
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        sampler = StepSampler(
            len(images), self.batch_size, self.steps, self.seed, self.first, rank, ranks, images.device
        )
        labels = self.images.train_labels if self.labelled else None
        return Batches(images, sampler, self.steps, self._pinned(images), labels)

    def val_dataloader(self) -> Batches:
        own = slice(self.trainer.global_rank, VALIDATION_IMAGES, self.trainer.world_size)
        images = place(self.images.held_out[own], self.trainer.strategy.root_device)
        labels = self.images.held_out_labels[own] if self.labelled else None
        parts = torch.arange(len(images), device=images.device).split(VALIDATION_BATCH)
        return Batches(images, parts, len(parts), self._pinned(images), labels)

    def _pinned(self, images: Tensor) -> bool:
        return self.trainer.strategy.root_device.type == "cuda" and not images.is_cuda


def place(images: Tensor, device: torch.device) -> Tensor:
    """The images on a CUDA device, if it has room for them and for the training; elsewhere where they are."""
    if device.type != "cuda" or images.nbytes > _SHARE * torch.cuda.mem_get_info(device)[0]:
        return images
    return images.to(device)

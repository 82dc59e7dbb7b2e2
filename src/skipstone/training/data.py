"""Batches for Lightning: gathered whole from one uint8 tensor, in an order that is a function of (seed, step)."""

from collections.abc import Iterator

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from skipstone import philox
from skipstone.data import ImageSet
from skipstone.philox import Stream

VALIDATION_BATCH = 250
VALIDATION_IMAGES = 2000  # at most; they come shuffled from every data set


class ImageTensor(Dataset):
    """A uint8 tensor [N, C, H, W] that is indexed a batch at a time."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.images[torch.as_tensor(indices)]


class StepSampler(Sampler[list[int]]):
    """The training images of every step: one pass over the whole training, not over the data.

    Epochs of the data are laid end to end, each shuffled by (seed, epoch), and cut into batches, so step k's images
    depend on nothing but (seed, k). A device takes its share of the global batch.
    """

    def __init__(
        self, size: int, batch: int, steps: int, seed: int, first: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        if batch % ranks:
            raise ValueError(f"training.batch_size={batch} cannot be shared by {ranks} devices: make it a multiple.")
        self.size, self.batch, self.steps, self.seed, self.first = size, batch, steps, seed, first
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        # all steps, also of a resumed run: Lightning counts the steps before `first` as done
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch // self.ranks
        epoch, order = -1, torch.empty(0)
        for step in range(self.first, self.steps):
            batch = []
            for position in range(step * self.batch + self.rank * share, step * self.batch + (self.rank + 1) * share):
                if position // self.size != epoch:
                    epoch = position // self.size
                    generator = torch.Generator().manual_seed(philox.fold(self.seed, Stream.TRAIN_ORDER, epoch))
                    order = torch.randperm(self.size, generator=generator).tolist()
                batch.append(order[position % self.size])
            yield batch


class ImageData(lightning.LightningDataModule):
    """Training batches by step, and the held-out images once over. Batches are uint8 [N, C, H, W].

    steps: batches of the whole training.  first: the one that a resumed training begins with.
    """

    def __init__(self, images: ImageSet, batch_size: int, seed: int, steps: int, first: int = 0) -> None:
        super().__init__()
        self.images, self.batch_size, self.seed, self.steps, self.first = images, batch_size, seed, steps, first

    def train_dataloader(self) -> DataLoader:
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        sampler = StepSampler(
            len(self.images.train), self.batch_size, self.steps, self.seed, first=self.first, rank=rank, ranks=ranks
        )
        return DataLoader(ImageTensor(self.images.train), batch_sampler=sampler, collate_fn=_whole)

    def val_dataloader(self) -> DataLoader:
        held_out = self.images.held_out[:VALIDATION_IMAGES][self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(ImageTensor(held_out), batch_size=VALIDATION_BATCH, collate_fn=_whole)


def _whole(batch: Tensor) -> Tensor:
    """`__getitems__` has already made the batch."""
    return batch

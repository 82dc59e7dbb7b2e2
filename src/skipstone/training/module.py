"""The DDPM objective as a LightningModule (Ho et al. 2020, algorithm 1).

Everything random is a function of (seed, step, position in the global batch): which t, which ε, which images are
mirrored. A run is therefore the same on one device or two (but for dropout, whose masks are drawn a device at a time),
and nothing has to be restored to resume it.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torchmetrics import MeanMetric

from skipstone import rng
from skipstone.data import to_unit
from skipstone.network.adapt import eps_of, gives, target_of
from skipstone.network.unet import ResBlock
from skipstone.process import ForwardProcess
from skipstone.rng import Stream
from skipstone.training import optimizers
from skipstone.training.batches import VALIDATION_BATCH
from skipstone.training.cuda_graph import Recording
from skipstone.training.recipe import Recipe

# Multiples of it, modulo 1, fill [0, 1) evenly however many there are.
_GOLDEN = (math.sqrt(5) - 1) / 2


class DiffusionModule(lightning.LightningModule):
    """Trains an ε-predictor: minimises E w(t) ‖ε − ε_θ(x_t, t)‖² over uniform t (L_simple, Eq. 14, where w = 1).

    Where the recipe has the network predict v or x0, that stands in the place of ε. Validation's losses are of ε and of
    w = 1 whatever the recipe, so that trainings compare.

    net: eps = net(x_t, t), or net(x_t, t, labels) where it has classes.  flip: mirror half of the training images.
    compiled: compile the network in the process that trains it.  kernels: train a UNet with our own kernels instead.
    bins: into how many ranges of t the validation loss is told apart.
    """

    def __init__(
        self,
        net: nn.Module,
        process: ForwardProcess,
        recipe: Recipe,
        seed: int,
        flip: bool,
        compiled: bool = False,
        kernels: bool = False,
        bins: int = 10,
    ) -> None:
        super().__init__()
        self.net, self.process, self.recipe = net, process, recipe
        self.seed, self.flip, self.compiled = seed, flip, compiled
        self.kernels = kernels
        self._recording: Recording | None = None
        self.gives = gives(net, recipe.predicts)
        weights = recipe.loss_weights(process, self.gives)
        self.register_buffer("loss_weights", None if weights is None else weights.float(), persistent=False)
        self.losses = nn.ModuleList(MeanMetric() for _ in range(min(bins, process.num_steps)))

    def on_fit_start(self) -> None:
        with self.trainer.precision_plugin.forward_context():
            self.prepare()

    def on_fit_end(self) -> None:
        self._recording = None  # and with it the memory of a whole step

    def prepare(self) -> None:
        """Compile what trains, under the autocast that it trains under."""
        if self.kernels:
            from skipstone.network import fused  # imports Triton

            fused.compile_ahead(self.net, self._masks(0, self.device))
        elif self.compiled:
            self.net.compile()  # in place: names in the state dict stay

    def predict(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, masks: Tensor | None = None) -> Tensor:
        """The network's output, the way it is trained here. masks: see fused.predict."""
        if not self.kernels:
            return self.net(x_t, t) if labels is None else self.net(x_t, t, labels)
        from skipstone.network import fused  # imports Triton

        return fused.predict(self.net, x_t, t, masks, labels)

    def training_step(self, batch: Tensor | Sequence[Tensor], step: int) -> Tensor:
        """One step on this device's share of the global batch: uint8 [N, C, H, W], or that and labels, int64 [N]."""
        images, *labels = _parts(batch)
        if self._recorded:
            if self._recording is None:
                self._recording = Recording(self.loss, list(self.net.parameters()), [images, *labels])
            loss = self._recording([images, *labels], step)
        else:
            loss = self.loss(images, step, *labels, rank=self.global_rank, ranks=self.trainer.world_size)
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:
            self.log("train/loss", loss)  # not to the bar, for which Lightning would look at it at every step
        return loss

    @property
    def _recorded(self) -> bool:
        """Whether steps are replayed from one recording: by one device, with nothing between loss and gradients."""
        trainer = self.trainer
        alone = isinstance(trainer.strategy, SingleDeviceStrategy) and trainer.accumulate_grad_batches == 1
        return self.kernels and alone and not trainer.scaler and not torch.is_anomaly_enabled()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self._recording is None:
            super().backward(loss, *args, **kwargs)
        else:
            self._recording.deliver()

    def loss(
        self, images: Tensor, step: int | Tensor, labels: Tensor | None = None, *, rank: int = 0, ranks: int = 1
    ) -> Tensor:
        """The loss of this share, the `rank`-th of `ranks`, at a step: a function of (weights, images, seed, step).

        step: an int, or int64 [1] on the device.  labels: of the images; some are dropped for the null label.
        """
        n, device = len(images), images.device
        index = torch.arange(n, device=device) + n * rank  # positions in the global batch
        x0 = to_unit(images)
        if self.flip:
            mirrored = rng.uniform(self.seed, Stream.TRAIN_FLIP, index, step) < 0.5
            x0 = torch.where(mirrored[:, None, None, None], x0.flip(-1), x0)
        t = stratified_t(self.seed, index, n * ranks, self.process.num_steps, step)
        eps = rng.normal(self.seed, Stream.TRAIN_EPS, index, x0.shape[1:], step)
        if labels is not None:
            dropped = rng.uniform(self.seed, Stream.TRAIN_LABEL, index, step) < self.recipe.label_dropout
            labels = torch.where(dropped, self.net.classes, labels)
        masks = self._masks(step * ranks + rank, device)
        target = target_of(self.gives, x0, eps, t, self.process)
        errors = (self.predict(self.process.diffuse(x0, t, eps), t, labels, masks) - target).square()
        return (
            errors.mean() if self.loss_weights is None else (self.loss_weights[t] * errors.mean(dim=(1, 2, 3))).mean()
        )

    def _masks(self, draw: int | Tensor, device: torch.device) -> Tensor | None:
        """What dropout draws from: numbers for our kernels, or else the state of torch's generator, its only handle."""
        if not self.kernels:
            # torch.manual_seed would also look for every other kind of device
            cuda = device.type == "cuda"
            generator = torch.cuda.default_generators[device.index] if cuda else torch.default_generator
            generator.manual_seed(rng.fold(self.seed, Stream.TRAIN_DROPOUT, draw))
            return None
        blocks = sum(isinstance(module, ResBlock) for module in self.net.modules())
        return rng.words(self.seed, Stream.TRAIN_DROPOUT, torch.arange(blocks, device=device), draw, 1)[:, 0]

    def validation_step(self, batch: Tensor | Sequence[Tensor], batch_index: int) -> None:
        """Held-out losses at fixed (t, ε), the same at every validation, spread evenly over t and told apart by t."""
        images, *labels = _parts(batch)
        # where these images stand among the held-out ones: devices take turns (ImageData.val_dataloader)
        index = torch.arange(len(images), device=self.device) + batch_index * VALIDATION_BATCH
        index = index * self.trainer.world_size + self.global_rank
        x0 = to_unit(images)
        t = (index.double() * _GOLDEN % 1 * self.process.num_steps).long()
        eps = rng.normal(self.seed, Stream.VALIDATION, index, x0.shape[1:])
        x_t = self.process.diffuse(x0, t, eps)
        found = eps_of(self.gives, self.predict(x_t, t, *labels), x_t, t, self.process)
        losses = (found - eps).square().mean(dim=(1, 2, 3))
        self.log("val/loss", losses.mean(), batch_size=len(images), sync_dist=True)
        bins = t * len(self.losses) // self.process.num_steps
        for i, metric in enumerate(self.losses):
            metric.update(losses, weight=(bins == i).float())

    def on_validation_epoch_end(self) -> None:
        width = self.process.num_steps / len(self.losses)
        for i, metric in enumerate(self.losses):
            loss = metric.compute()  # on every device, for they wait for each other here
            if loss.isfinite():  # some t of this range was among the held-out images
                name = f"val/loss_t/{round(i * width):04d}-{round((i + 1) * width) - 1:04d}"
                self.log(name, loss, sync_dist=True)  # equal already; Lightning warns without
            metric.reset()

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None, gradient_clip_algorithm: str | None
    ) -> None:
        """Clip as asked, the global norm by default. Lightning's hook refuses fused optimizers in mixed precision."""
        if gradient_clip_val and gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self._weights, gradient_clip_val)
        elif gradient_clip_val:
            nn.utils.clip_grad_norm_(self._weights, gradient_clip_val)

    def configure_optimizers(self) -> dict:
        fused = self.trainer.precision != "16-mixed"  # a fused step would unscale float16 gradients after the clip
        optimizer = optimizers.build(self.net, self.recipe, fused)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def learning_rate(self, step: int) -> float:
        """Of a step, from 0."""
        return self.recipe.learning_rate * self._scale(step)

    def _scale(self, step: int) -> float:
        rise = min(1.0, (step + 1) / max(1, self.recipe.warmup))
        if self.recipe.decay == "constant":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self._steps)))

    @cached_property
    def _weights(self) -> list[nn.Parameter]:
        return list(self.net.parameters())

    @cached_property
    def _steps(self) -> int:
        return int(self.trainer.estimated_stepping_batches)


def _parts(batch: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """(images,) or (images, labels) of a batch."""
    return (batch,) if isinstance(batch, Tensor) else batch


def stratified_t(seed: int, index: Tensor, batch: int, num_steps: int, step: int | Tensor) -> Tensor:
    """Uniform t with one draw in each of `batch` equal strata: int64, of the shape of `index`.

    Each t is uniform on 0 … T−1, as L_simple asks; together they cover the range, which takes variance out of the
    gradient (Kingma et al. 2021, appendix I.1). Strata go to positions in order, for images come shuffled.
    """
    shift = rng.uniform(seed, Stream.TRAIN_T, torch.zeros_like(index), step)
    return ((shift + index / batch) % 1 * num_steps).long()

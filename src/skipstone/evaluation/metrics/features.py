"""Features of images for Fréchet and kernel distances."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from skipstone.data import to_unit
from skipstone.progress import Show, nothing

_COLOUR = {1: "grey", 3: "colour"}


def require_bytes(images: Tensor) -> None:
    """Raise ValueError for images that are not uint8: their scale would be a guess."""
    if images.dtype != torch.uint8:
        raise ValueError(
            f"images must be bytes (uint8, 0 ... 255), not {images.dtype}: convert samples in [-1, 1] with "
            "skipstone.data.to_bytes."
        )


class Extractor(nn.Module):
    """A network that turns images into features: uint8 [N, channels, H, W] → float64 [N, num_features] on the CPU.

    A subclass defines `embed`. It runs in batches on the device of its weights, in float32 whatever the caller's
    autocast says. Raises ValueError for images of another number of channels, and for others than bytes.
    """

    kind: str
    batch_size = 256

    def __init__(self, channels: int, num_features: int) -> None:
        super().__init__()
        self.channels, self.num_features = channels, num_features

    def embed(self, images: Tensor) -> Tensor:
        """One batch on the network's device: uint8 [n, channels, H, W] → float32 [n, num_features]."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor, show: Show = nothing) -> Tensor:
        require_bytes(images)
        if images.shape[1] != self.channels:
            given, wanted = (_COLOUR.get(count, f"{count}-channel") for count in (images.shape[1], self.channels))
            raise ValueError(
                f"{given} images do not go into a {wanted} network ({self.kind} features): "
                f"set dataset.channels={self.channels}."
            )
        device = next(self.parameters()).device
        features: list[Tensor] = []
        with float32(device):
            for part in images.split(self.batch_size):
                features.append(self.embed(part.to(device)).double().cpu())
                show(min(len(features) * self.batch_size, len(images)), len(images))
        return torch.cat(features)

    @cached_property
    def name(self) -> str:
        """Kind, number of features and a hash of the weights: equal names, equal features."""
        digest = hashlib.sha256()
        for key, tensor in self.state_dict().items():
            digest.update(f"{key}{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy())
        return f"{self.kind}{self.num_features}-{digest.hexdigest()[:10]}"


@contextmanager
def float32(device: torch.device) -> Iterator[None]:
    """Convolutions in full float32 and the same in every run: no autocast, no TF32, no choice of algorithm by speed.

    Features that one device left on disk are compared with features of another.
    """
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.autocast(device.type, enabled=False), exact:
        yield


class RandomFeatures(Extractor):
    """A fixed, seeded, untrained convolutional network (Naeem et al. 2020, section 4.2): no weights, no download.

    Three strided convolutions, then averages over the four quarters of the image, so that it matters roughly where a
    stroke is.
    """

    kind = "random"

    def __init__(self, channels: int, num_features: int = 64, seed: int = 0) -> None:
        super().__init__(channels, num_features)
        if num_features % 4:
            raise ValueError(
                f"metrics.features={num_features} must be a multiple of 4: one part a quarter of the image."
            )
        widths = [channels, 32, 64, num_features // 4]
        layers: list[nn.Module] = []
        generator = torch.Generator().manual_seed(seed)
        for c_in, c_out in pairwise(widths):
            conv = nn.utils.skip_init(nn.Conv2d, c_in, c_out, 3, stride=2, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
            nn.init.normal_(conv.bias, std=0.1, generator=generator)
            layers += [conv, nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())

    def embed(self, images: Tensor) -> Tensor:
        return self.layers(to_unit(images))

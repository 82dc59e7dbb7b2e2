"""Features of images for Fréchet and kernel distances."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from skipstone.data import to_unit

_BATCH = 1000


class RandomFeatures(nn.Module):
    """A fixed, seeded, untrained convolutional network (Naeem et al. 2020, section 4.2): no weights, no download.

    uint8 [N, channels, H, W] → float64 [N, num_features] on the CPU. Three strided convolutions, then averages over
    the four quarters of the image, so that it matters roughly where a stroke is.
    """

    def __init__(self, channels: int, num_features: int = 64, seed: int = 0) -> None:
        super().__init__()
        if num_features % 4:
            raise ValueError(
                f"metrics.features={num_features} must be a multiple of 4: one part a quarter of the image."
            )
        self.num_features = num_features
        widths = [channels, 32, 64, num_features // 4]
        layers: list[nn.Module] = []
        generator = torch.Generator().manual_seed(seed)
        for c_in, c_out in pairwise(widths):
            conv = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
            nn.init.normal_(conv.bias, std=0.1, generator=generator)
            layers += [conv, nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.layers(to_unit(part)).double() for part in images.cpu().split(_BATCH)])

"""How far images are from others in the eyes of small networks, layer by layer.

Fitted on pixels, a table makes the mean of what is possible, which is blur. The layers of classifiers see what images
are made of (Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric").
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from skipstone.data import ImageSet
from skipstone.evaluation.metrics import RandomFeatures, ensure_classifier

_SEEDS = (1, 2)  # of the networks: 0 is that of the metrics, which judge what is fitted


class Perception:
    """Layers of several networks.

    nets: each a sequence of layers on images in [−1, 1], in eval mode.
    name: of the networks, for people.
    """

    def __init__(self, nets: Sequence[nn.Sequential], name: str) -> None:
        self.nets, self.name = nets, name

    @classmethod
    def of(cls, images: ImageSet, outputs: Path, device: torch.device, steps: int) -> "Perception":
        """Classifiers of the data set's labels; where it has none, untrained networks. None is that of a metric.

        outputs: below which classifiers are kept.  steps: of their training.
        """
        if images.train_labels is None:
            random = [RandomFeatures(images.shape[0], seed=seed).to(device) for seed in _SEEDS]
            return cls([net.layers for net in random], f"untrained networks of seeds {_SEEDS}")
        trained = [ensure_classifier(images, outputs, device, steps=steps, seed=seed) for seed in _SEEDS]
        return cls([net.body for net in trained], f"classifiers of seeds {_SEEDS}")

    def __call__(self, images: Tensor) -> list[list[Tensor]]:
        """Of each network, what its activations give, and its last layer: float [N, …]. images: [N, C, H, W]."""
        return [_layers(net, images.clamp(-1, 1).to(next(net.parameters()).dtype)) for net in self.nets]


def _layers(net: nn.Sequential, x: Tensor) -> list[Tensor]:
    found = []
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            found.append(x.flatten(1))
    return [*found, x]

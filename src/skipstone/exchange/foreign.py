"""A network from elsewhere, as it is before anything here samples it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from skipstone.process import ForwardProcess
from skipstone.store import models, tensors
from skipstone.store.key import FORMAT


@dataclass(frozen=True)
class Foreign:
    """What was found in a file or folder that is not ours.

    net:       float32, on the CPU; a `UNet` of ours where the architecture is the same; stored.opened
               makes eps of it
    process:   its forward process
    kind:      what it was found as, for people
    settings:  `model` and `noise`, and `training` of a network of ours, from which all is built again, as in a
               config.yaml of ours
    clip_x0:   whether its own sampler clips
    """

    net: nn.Module
    process: ForwardProcess
    kind: str
    settings: dict[str, Any] = field(repr=False)
    clip_x0: bool = False


def adopt(found: Foreign, store: models.ModelStore, source: str) -> Path:
    """The folder of a model in the store with these weights, written now if it is not there.

    Its key is a hash of the weights and of what they are weights of, so what is adopted twice is kept once.

    source: where it came from, for people
    """
    weights = {name: tensor.contiguous() for name, tensor in found.net.state_dict().items()}
    config = {
        "format": FORMAT,
        "dataset": {"name": "adopted", "fingerprint": None, "flip": False},
        **found.settings,
        "adopted": {"weights": tensors.digest(weights, {}), "clip_x0": found.clip_x0},
    }
    return store.adopt(config, found.net, f"{found.kind} at {source}")

"""Features of a small classifier, trained once on the labels of the data set itself and stored like a model.

    <outputs>/classifiers/<data set>-<hash>/   classifier.safetensors  classifier.json

Unlike a random network's, its features are about what the classes differ in; unlike Inception's, they are about this
data. What the classes do not need, it may not see.
"""

import hashlib
import json
import logging
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skipstone.data import ImageSet, to_unit
from skipstone.evaluation.metrics.features import Extractor, float32
from skipstone.store import files, locks, tensors

log = logging.getLogger(__name__)

_FORMAT = 1
_WEIGHTS, _RECORD = "classifier.safetensors", "classifier.json"
_WIDTHS = (32, 64, 64)
_BATCH = 128
_LEARNING_RATE = 3e-3


class ClassifierFeatures(Extractor):
    """The penultimate layer of a small convolutional classifier, before its activation, which would zero half of it.

    classes: how many.  accuracy: on the held-out images, 0 … 1, or NaN before `ensure_classifier` filled it in.
    """

    kind = "classifier"

    def __init__(self, channels: int, num_features: int, classes: int) -> None:
        super().__init__(channels, num_features)
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise((channels, *_WIDTHS)):
            layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * _WIDTHS[-1], num_features)]
        # features of variance 1, or the cubes of the kernel distance would grow with the length of the training
        self.body = nn.Sequential(*layers, nn.BatchNorm1d(num_features, affine=False))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(num_features, classes))
        self.accuracy = float("nan")

    def embed(self, images: Tensor) -> Tensor:
        return self.body(to_unit(images))


def ensure_classifier(
    images: ImageSet,
    outputs: Path,
    device: str | torch.device = "cpu",
    *,
    features: int = 64,
    steps: int = 400,
    seed: int = 0,
) -> ClassifierFeatures:
    """The classifier of this data set, in eval mode on `device`: found below outputs/classifiers, or trained now.

    It is a function of the data, the arguments and the kind of device. Raises ValueError for data without labels.
    """
    if images.train_labels is None or images.held_out_labels is None:
        raise ValueError(
            f"classifier features need labels, and dataset {images.name} has none: leave out metrics.classifier=true, "
            "or sort the images into sub-folders, one a class."
        )
    classes = 1 + int(max(images.train_labels.max(), images.held_out_labels.max()))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = ClassifierFeatures(images.shape[0], features, classes)
    net = net.to(device, memory_format=torch.channels_last)  # trains twice as fast on a processor
    folder = Path(outputs) / "classifiers" / f"{images.name}-{_key(images, features, steps, seed)}"
    if not _load(net, folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locks.held(folder / "lock", f"the training of {folder}"):
            if not _load(net, folder):
                _make(net, images, folder, steps, seed)
    return net.eval()


def _make(net: ClassifierFeatures, images: ImageSet, folder: Path, steps: int, seed: int) -> None:
    log.info("training a classifier on the labels of %s for %d steps (once a data set)", images.name, steps)
    with float32(next(net.parameters()).device):
        _train(net, images, steps, seed)
        net.eval()
        net.accuracy = _accuracy(net, images)
    _save(net, folder, steps)
    log.info("the classifier names %.2f %% of the held-out images rightly", 100 * net.accuracy)


def _key(images: ImageSet, *settings: int) -> str:
    """A hash of everything that changes the weights."""
    digest = hashlib.sha256(repr((_FORMAT, images.fingerprint, *settings)).encode())
    for labels in (images.train_labels, images.held_out_labels):
        digest.update(labels.contiguous().numpy())
    return digest.hexdigest()[:10]


def _train(net: ClassifierFeatures, images: ImageSet, steps: int, seed: int) -> None:
    device = next(net.parameters()).device
    pixels, labels = images.train.to(device), images.train_labels.to(device)
    optimizer = torch.optim.AdamW(net.parameters(), _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(pixels), (_BATCH,), generator=generator).to(device)
        loss = F.cross_entropy(net.head(net.embed(pixels[rows])), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _accuracy(net: ClassifierFeatures, images: ImageSet) -> float:
    device = next(net.parameters()).device
    named = net.head(net(images.held_out).float().to(device)).argmax(1).cpu()
    return float((named == images.held_out_labels).double().mean())


def _save(net: ClassifierFeatures, folder: Path, steps: int) -> None:
    tensors.keep(net.state_dict(), folder / _WEIGHTS, folder.name, accuracy=repr(net.accuracy))
    record = {"held_out_accuracy": net.accuracy, "steps": steps}  # for people
    files.write(folder / _RECORD, (json.dumps(record) + "\n").encode())


def _load(net: ClassifierFeatures, folder: Path) -> bool:
    """Whether a whole classifier of this data was there; if not, `net` keeps its first weights."""
    kept = tensors.found(folder / _WEIGHTS, folder.name)
    if kept is None:
        return False
    net.load_state_dict(kept.tensors)
    net.accuracy = float(kept.about["accuracy"])
    return True

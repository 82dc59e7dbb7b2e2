"""Features of real images, kept on disk. What is absent or damaged is made again, so all may be deleted."""

from pathlib import Path

from torch import Tensor

from skipstone.data import ImageSet, pick
from skipstone.evaluation.metrics.features import Extractor
from skipstone.store import tensors

_FORMAT = 1  # of what extractors make of an image, beside their weights


def real_features(extractor: Extractor, images: ImageSet, part: str, n: int, folder: Path) -> Tensor:
    """Features of n images of `part` (train or held_out), picked by a fixed shuffle: float64 [n, num_features].

    Extracted once a data set, part, number and extractor, and kept below `folder`.
    """
    of = f"v{_FORMAT}-{images.name}-{images.fingerprint}-{part}-{n}-{extractor.name}"
    path = folder / f"{of}.safetensors"
    kept = tensors.found(path, of)
    if kept is not None:
        return kept.tensors["features"].double()
    features = extractor(pick(getattr(images, part), n))
    tensors.keep({"features": features.float()}, path, of)  # loses nothing: the network computed in float32
    return features

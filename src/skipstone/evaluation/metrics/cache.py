"""What the metrics keep on disk. A file that is absent or damaged is made anew, so every one may be deleted."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from skipstone.data import ImageSet, pick
from skipstone.evaluation.metrics.features import Extractor
from skipstone.store import files


def read(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file, or None where it is absent or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


_FORMAT = 1  # of what extractors make of an image, beside their weights


def real_features(extractor: Extractor, images: ImageSet, part: str, n: int, folder: Path) -> Tensor:
    """Features of n images of `part` (train or held_out), picked by a fixed shuffle: float64 [n, num_features].

    Extracted once a data set, part, number and extractor, and kept below `folder`.
    """
    path = folder / f"v{_FORMAT}-{images.name}-{images.fingerprint}-{part}-{n}-{extractor.name}.safetensors"
    kept = (read(path) or {}).get("features")
    if kept is not None and kept.shape == (n, extractor.num_features):
        return kept.double()
    features = extractor(pick(getattr(images, part), n))
    folder.mkdir(parents=True, exist_ok=True)
    files.write_tensors({"features": features.float()}, path)  # loses nothing: the network computed in float32
    return features

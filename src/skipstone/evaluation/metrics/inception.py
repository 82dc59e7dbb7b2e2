"""Inception-V3's features, on which a Fréchet distance may be called FID."""

import pickle
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from skipstone.evaluation.metrics.features import Extractor

NUM_FEATURES = 2048
_DOWNLOAD = "download"
# how torch.load fails on what it did not write, and load_state_dict on what does not fit
_FOREIGN = (
    RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError, ValueError, LookupError,
)  # fmt: skip


class InceptionFeatures(Extractor):
    """The 2048 features of torchmetrics' Inception-V3 (Szegedy et al. 2015, weights of TensorFlow's FID).

    weights: path of torch-fidelity's file (weights-inception-2015-12-05-6726825d.pth), or "download" for having
    torch-fidelity fetch it. Raises OSError for a file that is not there or not to be had, ValueError for one that holds
    something else and where torch-fidelity is not installed.
    """

    kind = "inception"
    batch_size = 64  # images are enlarged to 299 × 299

    def __init__(self, weights: str) -> None:
        super().__init__(3, NUM_FEATURES)
        try:
            import torch_fidelity  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "metrics.inception needs the package torch-fidelity: pip install 'skipstone[fid]', or leave it out."
            ) from error
        self.net = _download() if weights == _DOWNLOAD else _read(Path(weights).expanduser())

    @cached_property
    def name(self) -> str:
        """Also how images are enlarged: features on disk that torchmetrics enlarged otherwise are of another name."""
        return f"{super().name}-tf1"

    def embed(self, images: Tensor) -> Tensor:
        return self.net(images)


def _build(path: str | None) -> nn.Module:
    from torchmetrics.image.fid import NoTrainInceptionV3  # takes a second

    with torch.random.fork_rng(devices=[]):  # first weights are drawn before they are replaced
        net = NoTrainInceptionV3("inception-v3-compat", [str(NUM_FEATURES)], path)
    net.use_antialias = False  # enlarged as in TensorFlow 1, with which published references were made
    return net


def _download() -> nn.Module:
    try:
        return _build(None)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"metrics.inception=download: Inception-V3's weights could not be downloaded ({error}): connect to a "
            "network, or give the path of the file."
        ) from error


def _read(path: Path) -> nn.Module:
    if not path.is_file():
        raise FileNotFoundError(
            f"metrics.inception={path} is not a file: give the path of Inception-V3's weights, or download."
        )
    try:
        # torch-fidelity unpickles whatever it is given, so it gets only a file that holds nothing but tensors
        torch.load(path, weights_only=True)
        return _build(str(path))
    except _FOREIGN as error:
        raise ValueError(
            f"metrics.inception={path} does not hold the weights of torch-fidelity's Inception-V3 (it is no file of "
            "tensors, or their names or shapes differ): give that file, or download."
        ) from error

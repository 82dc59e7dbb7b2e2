"""Fréchet and kernel distances of a set of samples on several extractors' features, each beside its floor."""

import copy
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from skipstone.data import ImageSet
from skipstone.evaluation.metrics.cache import real_features
from skipstone.evaluation.metrics.classifier import ensure_classifier
from skipstone.evaluation.metrics.distances import extrapolated, fewest_to_extrapolate, frechet, kernel
from skipstone.evaluation.metrics.features import Extractor, RandomFeatures
from skipstone.evaluation.metrics.inception import NUM_FEATURES, InceptionFeatures

_LARGEST_REFERENCE = 10_000


class _Proxy(NamedTuple):
    """An extractor, the reference's features, float64 [N, num_features], and what its distances are called."""

    fd: str
    kid: str
    extractor: Extractor
    reference: Tensor


class Proxies:
    """Distances of n samples to the training images, and of n held-out real images to the same: the floor.

    A model cannot honestly do better than the floor at the same n: it is what real images that nobody trained on
    score. Below it, suspect memorised training images.

    images: the data set.  n: how many images are compared, at most len(images.held_out) and more than an extractor has
    features.  outputs: the folder below which classifiers/ and statistics/ are kept.  device: where features are
    extracted.

    features: of the random network and of the classifier.  classifier: fd_classifier and kid_classifier, true, false or
    "auto": where the data has labels.  classifier_steps: of its training.  inception: fid and kid_inception, with
    Inception-V3's weights from this path or "download".  extrapolate: also each Fréchet distance's limit for infinitely
    many samples.  subsets, subset_size: over which a kernel distance is averaged.
    """

    def __init__(
        self,
        images: ImageSet,
        n: int,
        *,
        outputs: str | Path,
        device: str | torch.device = "cpu",
        features: int = 64,
        classifier: bool | str = "auto",
        classifier_steps: int = 400,
        inception: str | None = None,
        extrapolate: bool = False,
        subsets: int = 20,
        subset_size: int = 100,
    ) -> None:
        self.images, self.n, self.folder = images, n, Path(outputs) / "statistics"
        self.extrapolate, self.subsets, self.subset_size = extrapolate, subsets, subset_size
        self._check_floor(n)
        _check_covariance(min(n, len(images.train)), features, extrapolate, "or lower metrics.features")
        if inception is not None:
            _check_covariance(min(n, len(images.train)), NUM_FEATURES, extrapolate, "or leave out metrics.inception")

        fid = None if inception is None else InceptionFeatures(inception)  # refused before a classifier is trained
        extractors: dict[tuple[str, str], Extractor] = {}
        extractors["fd_random", "kid_random"] = RandomFeatures(images.shape[0], features)
        if images.train_labels is not None if classifier == "auto" else classifier:
            extractors["fd_classifier", "kid_classifier"] = ensure_classifier(
                images, Path(outputs), device, features=features, steps=classifier_steps
            )
        if fid is not None:
            extractors["fid", "kid_inception"] = fid

        n_reference = min(_LARGEST_REFERENCE, len(images.train))
        self.proxies = [
            _Proxy(fd, kid, extractor, real_features(extractor.to(device), images, "train", n_reference, self.folder))
            for (fd, kid), extractor in extractors.items()
        ]

    def at(self, n: int) -> "Proxies":
        """The same, of n images. Fréchet distances that n images are too few for are left out."""
        self._check_floor(n)
        other = copy.copy(self)
        other.n = n
        other.__dict__.pop("floors", None)  # of another number
        return other

    def __call__(self, samples: Tensor) -> dict[str, float]:
        """uint8 [n, C, H, W] → an extractor at a time its fd_…, kid_… and kid_…_std, then fd_…_infinity, then floors.

        The distances on Inception's features are called fid and kid_inception.
        """
        if len(samples) != self.n:
            raise ValueError(f"{len(samples)} samples cannot be held against a floor of {self.n} real images.")
        return {**self._distances([proxy.extractor(samples) for proxy in self.proxies]), **self.floors}

    @cached_property
    def floors(self) -> dict[str, float]:
        """What n held-out real images score; when it is asked for, since what computes it takes a second to import."""
        distances = self._distances(
            [real_features(proxy.extractor, self.images, "held_out", self.n, self.folder) for proxy in self.proxies]
        )
        return {f"{name}_floor": value for name, value in distances.items() if not name.endswith("_std")}

    def _distances(self, features: list[Tensor]) -> dict[str, float]:
        values, limits = {}, {}
        for (fd, kid, extractor, reference), fake in zip(self.proxies, features, strict=True):
            if self.n > extractor.num_features:
                values[fd] = frechet(reference, fake)
            if self.extrapolate and self.n >= fewest_to_extrapolate(extractor.num_features):
                limits[f"{fd}_infinity"] = extrapolated(reference, fake)
            values[kid], values[f"{kid}_std"] = kernel(reference, fake, self.subsets, self.subset_size)
        return values | limits

    def _check_floor(self, n: int) -> None:
        held_out = len(self.images.held_out)
        if not 2 <= n <= held_out:
            raise ValueError(
                f"{n} images cannot be compared: each distance is shown beside that of as many held-out real images, "
                f"of which there are {held_out}, and at least 2 are needed; compare fewer, or hold out more "
                "(dataset.held_out)."
            )


def _check_covariance(n: int, num_features: int, extrapolate: bool, otherwise: str) -> None:
    """Refuse fewer images than a Fréchet distance of so many features needs; otherwise: what else to do about it."""
    fewest = fewest_to_extrapolate(num_features) if extrapolate else num_features + 1
    if n < fewest:
        what = "extrapolate a Fréchet distance" if extrapolate else "estimate a covariance"
        raise ValueError(
            f"{n} images are too few to {what} on {num_features} features: at least {fewest} are needed, both to train "
            f"on and to compare; raise evaluation.images and hold out as many (dataset.held_out), {otherwise}."
        )

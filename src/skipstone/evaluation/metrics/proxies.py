"""Fréchet and kernel distances of a set of samples on several extractors' features, each beside its floor."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from skipstone.data import ImageSet, pick
from skipstone.evaluation.metrics import jackknife
from skipstone.evaluation.metrics.cache import real_features
from skipstone.evaluation.metrics.classifier import ClassifierFeatures, ensure_classifier
from skipstone.evaluation.metrics.distances import (
    extrapolated,
    fewest_to_extrapolate,
    frechet,
    frechet_replicates,
    kernel,
    kernel_replicates,
)
from skipstone.evaluation.metrics.features import Extractor, RandomFeatures, require_bytes
from skipstone.evaluation.metrics.inception import NUM_FEATURES, InceptionFeatures
from skipstone.evaluation.metrics.metric import AGREEMENT, SOLVER_RMSE, Measured, Metric

log = logging.getLogger(__name__)

_LARGEST_REFERENCE = 10_000

Compute = Callable[[Tensor, Tensor], float]


class _Proxy(NamedTuple):
    """An extractor, the reference's features, float64 [N, num_features], and its two distances."""

    fd: Metric
    kid: Metric
    extractor: Extractor
    reference: Tensor


class _Own(NamedTuple):
    """A metric of one's own, and the function that computes it."""

    metric: Metric
    compute: Compute


class Proxies:
    """Distances of n samples to the training images, and of n held-out real images to the same: the floor.

    A model cannot honestly do better than the floor at the same n: it is what real images that nobody trained on
    score. Below it, suspect memorised training images. A Fréchet distance on d features needs more than d images, both
    to train on and to compare; where there are fewer it is left out, and `left_out` says so.

    images:            the data set
    n:                 how many images are compared, at most len(images.held_out)
    outputs:           the folder below which classifiers/ and statistics/ are kept
    device:            where features are extracted
    random:            whether fd_random and kid_random are measured
    features:          of the random network and of the classifier
    classifier:        fd_classifier and kid_classifier: true, false, or "auto", where the data has labels
    classifier_steps:  of its training
    inception:         fid and kid_inception, with Inception-V3's weights from this path or "download"
    extrapolate:       also each Fréchet distance's limit for infinitely many samples
    subsets:           over which a kernel distance is averaged
    subset_size:       images in each of them
    own:               metrics of one's own by name: functions of samples and training images, uint8 [n, C, H, W] and
                       [N, C, H, W], to a number; one whose larger values are better has lower_is_better = False

    Raises ValueError for settings that cannot be had.
    """

    def __init__(
        self,
        images: ImageSet,
        n: int,
        *,
        outputs: str | Path,
        device: str | torch.device = "cpu",
        random: bool = True,
        features: int = 64,
        classifier: bool | str = "auto",
        classifier_steps: int = 400,
        inception: str | None = None,
        extrapolate: bool = False,
        subsets: int = 20,
        subset_size: int = 100,
        own: Mapping[str, Compute] | None = None,
    ) -> None:
        self.images, self.n, self.folder = images, n, Path(outputs) / "statistics"
        self.extrapolate, self.subsets, self.subset_size = extrapolate, subsets, subset_size
        self._check_floor(n)
        both = min(n, len(images.train))
        labelled = images.train_labels is not None if classifier == "auto" else classifier
        if extrapolate and (random or labelled):
            _check_limit(both, features, "or lower metrics.features")
        if inception is not None:
            _check_inception(both, extrapolate)

        fid = None if inception is None else InceptionFeatures(inception)  # refused before a classifier is trained
        extractors: dict[tuple[str, str], Extractor] = {}
        if random:
            extractors["fd_random", "kid_random"] = RandomFeatures(images.shape[0], features)
        if labelled:
            extractors["fd_classifier", "kid_classifier"] = ensure_classifier(
                images, Path(outputs), device, features=features, steps=classifier_steps
            )
        if fid is not None:
            extractors["fid", "kid_inception"] = fid

        n_reference = min(_LARGEST_REFERENCE, len(images.train))
        self.proxies = [
            _Proxy(
                Metric(fd),
                Metric(kid),
                extractor,
                real_features(extractor.to(device), images, "train", n_reference, self.folder),
            )
            for (fd, kid), extractor in extractors.items()
        ]
        taken = {SOLVER_RMSE.name, AGREEMENT.name, *(name for names in extractors for name in names)}
        self.own = [_own(name, compute, taken) for name, compute in (own or {}).items()]
        for sentence in self.left_out:
            log.warning(sentence)

    def at(self, n: int) -> "Proxies":
        """The same, of n images."""
        self._check_floor(n)
        other = copy.copy(self)
        other.n = n
        other.__dict__.pop("floors", None)  # of another number
        return other

    @property
    def left_out(self) -> list[str]:
        """One sentence for each Fréchet distance that so few images cannot have."""
        return [
            f"{proxy.fd.name} is left out: a covariance of {proxy.extractor.num_features} features needs more images "
            f"than that, both to train on and to compare, and there are {len(proxy.reference)} and {self.n}."
            for proxy in self.proxies
            if not self._has_covariance(proxy)
        ]

    def __call__(self, samples: Tensor, labels: Tensor | None = None) -> dict[str, Measured]:
        """uint8 [n, C, H, W] → by name: an extractor at a time its fd_… and kid_…, then metrics of one's own.

        With labels, int64 [n], also the agreement: the share of samples that the classifier names as their label. Its
        floor is the share of held-out images that it names right.
        The distances on Inception's features are called fid and kid_inception.
        """
        require_bytes(samples)
        if len(samples) != self.n:
            raise ValueError(f"{len(samples)} samples cannot be held against a floor of {self.n} real images.")
        features = [proxy.extractor(samples) for proxy in self.proxies]
        found = {
            name: replace(each, floor=self.floors[name].value, limit_floor=self.floors[name].limit)
            for name, each in self._measured(samples, features).items()
        }
        if labels is not None:
            for proxy, fake in zip(self.proxies, features, strict=True):
                if isinstance(proxy.extractor, ClassifierFeatures):
                    found[AGREEMENT.name] = self._agreement(proxy.extractor, fake, labels)
        return found

    @cached_property
    def floors(self) -> dict[str, Measured]:
        """What n held-out real images score; when it is asked for, since what computes it takes a second to import."""
        features = [
            real_features(proxy.extractor, self.images, "held_out", self.n, self.folder) for proxy in self.proxies
        ]
        return self._measured(pick(self.images.held_out, self.n), features)

    def _measured(self, samples: Tensor, features: list[Tensor]) -> dict[str, Measured]:
        found = []
        for proxy, fake in zip(self.proxies, features, strict=True):
            real, subsets = proxy.reference, (self.subsets, self.subset_size)
            if self._has_covariance(proxy):
                wide = self.extrapolate and self.n >= fewest_to_extrapolate(proxy.extractor.num_features)
                limit = extrapolated(real, fake) if wide else None
                found.append(Measured.of(proxy.fd, frechet(real, fake), frechet_replicates(real, fake), limit=limit))
            replicates = kernel_replicates(real, fake, *subsets)
            found.append(Measured.of(proxy.kid, kernel(real, fake, *subsets)[0], replicates))
        for metric, compute in self.own:
            replicates = [float(compute(samples[some], self._real)) for some in jackknife.kept(self.n)]
            found.append(Measured.of(metric, float(compute(samples, self._real)), replicates))
        return {each.metric.name: each for each in found}

    def _agreement(self, classifier: ClassifierFeatures, fake: Tensor, labels: Tensor) -> Measured:
        real = classifier.named(real_features(classifier, self.images, "held_out", self.n, self.folder))
        right = (classifier.named(fake) == labels.cpu()).double()
        replicates = [float(right[some].mean()) for some in jackknife.kept(self.n)]
        floor = float((real == pick(self.images.held_out_labels, self.n)).double().mean())
        return Measured.of(AGREEMENT, float(right.mean()), replicates, floor=floor)

    def _has_covariance(self, proxy: _Proxy) -> bool:
        return min(self.n, len(proxy.reference)) > proxy.extractor.num_features

    @cached_property
    def _real(self) -> Tensor:
        """The training images that metrics of one's own compare with."""
        return pick(self.images.train, min(_LARGEST_REFERENCE, len(self.images.train)))

    def _check_floor(self, n: int) -> None:
        held_out = len(self.images.held_out)
        if not 2 <= n <= held_out:
            raise ValueError(
                f"{n} images cannot be compared: each distance is shown beside that of as many held-out real images, "
                f"of which there are {held_out}, and at least 2 are needed; compare fewer, or hold out more "
                "(dataset.held_out)."
            )


def _own(name: str, compute: Compute, taken: set[str]) -> _Own:
    """Raises ValueError for a name that is taken and for what cannot be called."""
    if name in taken:
        raise ValueError(f"metrics.own.{name} is not allowed: that metric is measured already, choose another name.")
    if not callable(compute):
        raise ValueError(
            f"metrics.own.{name} must be a function of samples and training images: give its class or function as "
            f"metrics.own.{name}._target_, and for a function metrics.own.{name}._partial_=true."
        )
    return _Own(Metric(name, getattr(compute, "lower_is_better", True)), compute)


def _check_limit(n: int, num_features: int, otherwise: str) -> None:
    """Refuse fewer images than an extrapolated distance needs; otherwise: what else to do about it."""
    _refuse_fewer(n, fewest_to_extrapolate(num_features), "extrapolate a Fréchet distance", num_features, otherwise)


def _check_inception(n: int, extrapolate: bool) -> None:
    """Refuse fewer images than FID needs: it was asked for, so it is not left out."""
    if extrapolate:
        _check_limit(n, NUM_FEATURES, "or leave out metrics.inception")
    _refuse_fewer(n, NUM_FEATURES + 1, "estimate a covariance", NUM_FEATURES, "or leave out metrics.inception")


def _refuse_fewer(n: int, fewest: int, what: str, num_features: int, otherwise: str) -> None:
    if n < fewest:
        raise ValueError(
            f"{n} images are too few to {what} on {num_features} features: at least {fewest} are needed, both to train "
            f"on and to compare; raise evaluation.images and hold out as many (dataset.held_out), {otherwise}."
        )

"""Any two sets of images, as people have them, and the distances between them: what scripts/distance.py does."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from skipstone.commands.called import called
from skipstone.commands.schema import CONF
from skipstone.data import ImageSet, pick, to_bytes
from skipstone.data.arrays import BRIGHTEST
from skipstone.data.decode import decode
from skipstone.data.scan import scan
from skipstone.evaluation import results
from skipstone.evaluation.metrics import InceptionFeatures, Measured, Metric, RandomFeatures, ensure_classifier
from skipstone.evaluation.metrics.distances import frechet_to, kernel, kernel_replicates
from skipstone.evaluation.metrics.features import Extractor
from skipstone.evaluation.metrics.inception import NUM_FEATURES
from skipstone.evaluation.metrics.jackknife import kept
from skipstone.network import placement
from skipstone.store import models, stored

_GREY = ("1", "L", "LA", "I", "I;16")  # Pillow's modes


@dataclass(frozen=True)
class Images:
    """uint8 [N, C, H, W], and the data set whose part it is, if any; for its train part, floor is the other part."""

    images: Tensor
    data: ImageSet | None = None
    floor: Tensor | None = None


@dataclass(frozen=True)
class Statistics:
    """A published reference: float64 mu [d], sigma [d, d]."""

    mu: Tensor
    sigma: Tensor


def read(key: str, config: DictConfig) -> Images | Statistics:
    """What `a` or `b` names: a data set or one part, an .npz, a folder of a run, of a job, of samples or of images.

    Raises ValueError or OSError, in one sentence, for what cannot be compared.
    """
    name = config[key]
    group, _, part = name.partition(":")
    if group in _data_sets():
        return _data_set(key, group, part, config)
    path, cell = Path(name), None
    if not path.exists() and ":" in name:
        folder, _, cell = name.rpartition(":")
        path = Path(folder)
    if path.is_file():
        found = _npz(path)
        if key == "a" and isinstance(found, Statistics):
            raise ValueError(f"a={name} holds mu and sigma: give that reference as b, and images as a.")
        return found
    keys = [] if path.exists() else models.ModelStore(config.paths.outputs).keys()
    if stored.weights_of(path).is_file() or (name == "latest" and keys) or any(each.startswith(name) for each in keys):
        sample = " ".join(called("sample"))
        raise ValueError(f"{key}={name} is a model: type {sample} run={name} n=1000, then {key}=<its folder>.")
    if not path.is_dir():
        raise FileNotFoundError(
            f"{key}={name} is not there: give a folder, an .npz file, or a data set, one of {', '.join(_data_sets())}."
        )
    if (path / "multirun.yaml").is_file():
        raise ValueError(f"{key}={name} is a sweep: give the folder of one of its jobs, such as {path / '0'}.")
    if results.there(path):
        return Images(_cell(path, cell))
    if cell is not None:
        raise ValueError(f"{key}={name} names a cell, and {path} holds no results of a run: leave out :{cell}.")
    samples = next((path / file for file in ("samples_adm.npz", "samples.npz") if (path / file).is_file()), None)
    return Images(_folder(path)) if samples is None else _npz(samples)


def distances(a: Images, b: Images | Statistics, config: DictConfig) -> tuple[list[Measured], list[str]]:
    """Every distance of a to the reference b that can be had, and a sentence for what is left out."""
    smallest = _require_comparable(a, b, config.metrics.inception)
    device = placement.device(placement.alone(config.device, "32-true", compile=False, kernels=False))
    extractors = _extractors(a, b, config, device)
    subsets = (config.metrics.subsets, config.metrics.subset_size)
    found, remarks = [], []
    floor = b.floor if isinstance(b, Images) else None
    if floor is not None and len(floor) < len(a.images):
        remarks.append(f"There is no floor: b holds out {len(floor)} images, and a has {len(a.images)}.")
        floor = None
    for (fd, kid), extractor in extractors.items():
        fake = extractor(a.images)
        real = None if isinstance(b, Statistics) else extractor(b.images)
        best = None if floor is None else extractor(pick(floor, len(fake)))
        if smallest > extractor.num_features:
            gaussian = (b.mu, b.sigma) if real is None else (real.mean(dim=0), torch.cov(real.T))
            value, *replicates = frechet_to(*gaussian, [fake, *(fake[some] for some in kept(len(fake)))])
            of_real = None if best is None else frechet_to(*gaussian, [best])[0]
            found.append(Measured.of(Metric(fd), value, replicates, floor=of_real))
        else:
            remarks.append(
                f"{fd} is left out: {extractor.num_features} features need more images than that, and there are "
                f"{smallest}; lower metrics.features."
            )
        if real is not None:
            of_real = None if best is None else kernel(real, best, *subsets)[0]
            replicates = kernel_replicates(real, fake, *subsets)
            found.append(Measured.of(Metric(kid), kernel(real, fake, *subsets)[0], replicates, floor=of_real))
    return found, remarks


def rows(measured: Sequence[Measured]) -> list[dict[str, str | float | None]]:
    """One row per distance."""
    return [{"metric": m.metric.name, "value": m.value, "spread": m.spread, "floor": m.floor} for m in measured]


def _require_comparable(a: Images, b: Images | Statistics, inception: str | None) -> int:
    """The number of images of the smaller set; ValueError for sets that cannot be compared."""
    if isinstance(b, Images) and a.images.shape[1:] != b.images.shape[1:]:
        ours, theirs = (" x ".join(map(str, x.images.shape[1:])) for x in (a, b))
        raise ValueError(f"a has images of {ours} and b of {theirs} (channels, height, width): bring them to one form.")
    smallest = min(len(x.images) for x in (a, b) if isinstance(x, Images))
    if smallest < 2:
        raise ValueError(f"{smallest} images are too few to compare: give at least 2 on each side.")
    if inception is None:
        if isinstance(b, Statistics):
            raise ValueError("b holds mu and sigma: add metrics.inception=<path to Inception-V3's weights>.")
        return smallest
    if isinstance(b, Statistics) and len(b.mu) != NUM_FEATURES:
        raise ValueError(f"mu of b has {len(b.mu)} features and Inception-V3 {NUM_FEATURES}: give another reference.")
    if a.images.shape[1] != 3:
        raise ValueError("a has grey images and Inception-V3 takes colour: leave out metrics.inception.")
    if smallest <= NUM_FEATURES:
        raise ValueError(
            f"{smallest} images are too few for fid on {NUM_FEATURES} features: give more than {NUM_FEATURES}, or "
            "leave out metrics.inception."
        )
    return smallest


def _extractors(
    a: Images, b: Images | Statistics, config: DictConfig, device: torch.device
) -> dict[tuple[str, str], Extractor]:
    """By the names of the two distances on their features. To a reference of mu and sigma there is fid alone."""
    chosen = config.metrics
    fid = None if chosen.inception is None else InceptionFeatures(chosen.inception)  # refused before one is trained
    found: dict[tuple[str, str], Extractor] = {}
    if isinstance(b, Images):
        found["fd_random", "kid_random"] = RandomFeatures(a.images.shape[1], chosen.features)
        data = next((x.data for x in (b, a) if x.data is not None and x.data.train_labels is not None), None)
        if data is not None:
            found["fd_classifier", "kid_classifier"] = ensure_classifier(
                data, Path(config.paths.outputs), device, features=chosen.features, steps=chosen.classifier_steps
            )
    if fid is not None:
        found["fid", "kid_inception"] = fid
    return {names: extractor.to(device) for names, extractor in found.items()}


def _data_sets() -> list[str]:
    return sorted(path.stem for path in (CONF / "dataset").glob("*.yaml"))


def _data_set(key: str, group: str, part: str, config: DictConfig) -> Images:
    """With the settings of the command line where dataset=<group> is chosen there, else with its own."""
    if part not in ("", "train", "held_out"):
        raise ValueError(
            f"{key}={group}:{part} is unknown: a data set has the parts {group}:train and {group}:held_out."
        )
    if group != HydraConfig.get().runtime.choices["dataset"]:
        own = {"dataset": OmegaConf.load(CONF / "dataset" / f"{group}.yaml")}
        config = OmegaConf.merge(OmegaConf.create({"paths": config.paths}), own)
    data = instantiate(config.dataset)
    return Images(data.held_out, data) if part == "held_out" else Images(data.train, data, data.held_out)


def _npz(path: Path) -> Images | Statistics:
    try:
        with np.load(path) as file:
            found = {key: torch.from_numpy(file[key]) for key in ("mu", "sigma", "arr_0", "samples") if key in file}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} is not an .npz file of plain arrays: give another.") from error
    if {"mu", "sigma"} <= found.keys():
        mu, sigma = found["mu"].double(), found["sigma"].double()
        if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
            raise ValueError(f"{path}: mu and sigma must be [d] and [d, d], not {[*mu.shape]} and {[*sigma.shape]}.")
        if not bool(mu.isfinite().all() and sigma.isfinite().all()):
            raise ValueError(f"{path}: mu or sigma is not finite: give another reference.")
        return Statistics(mu, sigma)
    x = found.get("arr_0", found.get("samples"))
    if x is None or x.ndim != 4:
        raise ValueError(f"{path} must hold arr_0 (uint8 [N, H, W, C]), samples ([N, C, H, W]), or mu and sigma.")
    x = x.permute(0, 3, 1, 2) if "arr_0" in found else x
    if x.shape[1] not in (1, 3):
        raise ValueError(f"{path} holds images of {x.shape[1]} channels: 1 (grey) or 3 (colour) can be compared.")
    if x.is_floating_point():
        if "arr_0" in found or not bool((x.abs() <= BRIGHTEST).all()):
            raise ValueError(
                f"{path} holds floats that are not finite or not in [-1, 1]: store bytes, uint8 0 ... 255."
            )
        x = to_bytes(x)
    if x.dtype != torch.uint8:
        raise ValueError(f"{path} holds {x.dtype}: store bytes, uint8 0 ... 255.")
    return Images(x.contiguous())


def _cell(folder: Path, name: str | None) -> Tensor:
    cells = {result.name: result for result in results.load(folder)}
    if name is not None and name not in cells:
        raise ValueError(f"{folder} has no cell {name}: choose one of {', '.join(cells)}.")
    chosen = cells[name] if name else next((each for each in cells.values() if each.own), next(iter(cells.values())))
    return chosen.samples


def _folder(path: Path) -> Tensor:
    files = [file.path for file in scan(str(path)).files]
    if not files:
        raise FileNotFoundError(f"{path} holds no images and no results of a run: give another folder.")
    kinds = set()
    for file in files:
        try:
            with Image.open(file) as image:
                kinds.add((*image.size, 1 if image.mode in _GREY else 3))
        except (OSError, PIL.UnidentifiedImageError) as error:
            raise OSError(f"{file} cannot be read as an image: replace it or move it away.") from error
    (width, height, channels), *others = sorted(kinds)
    if others or width != height:
        raise ValueError(f"{path} must hold square images of one size, all grey or all in colour: convert them first.")
    return decode(files, width, channels)[0]

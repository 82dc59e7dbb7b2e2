"""Any two sets of images, as people have them, and the distances between them: what scripts/distance.py does."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from skipstone.commands.schema import CONF
from skipstone.data import ImageSet, to_bytes
from skipstone.data.decode import decode
from skipstone.data.scan import scan
from skipstone.evaluation import results
from skipstone.evaluation.metrics import InceptionFeatures, Measured, Metric, RandomFeatures, ensure_classifier
from skipstone.evaluation.metrics.distances import frechet_to, kernel, kernel_replicates
from skipstone.evaluation.metrics.features import Extractor
from skipstone.evaluation.metrics.jackknife import kept

_DATASET = "dataset="
_SUBSETS = (20, 100)


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


def read(name: str, outputs: Path, cell: str | None = None) -> Images | Statistics:
    """What a person names: dataset=<name> or dataset=<name>/held_out, an .npz, a run's or a job's folder, a folder.

    Raises ValueError or OSError, in one sentence, for what cannot be compared.
    """
    if name.startswith(_DATASET):
        return _data_set(name, outputs)
    path = Path(name).expanduser()
    if path.is_file():
        return _npz(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{name} is not there: give a folder, an .npz file, a run's folder or dataset=<name>.")
    if results.there(path):
        return Images(_cell(path, cell))
    if (path / "samples.npz").is_file():
        return _npz(path / "samples.npz")
    return Images(_folder(path))


def distances(
    a: Images, b: Images | Statistics, outputs: Path, features: int = 64, inception: str | None = None
) -> tuple[list[Measured], list[str]]:
    """Every distance of a to the reference b that can be had, and a sentence for each that is left out."""
    if isinstance(b, Images) and a.images.shape[1:] != b.images.shape[1:]:
        ours, theirs = (" x ".join(map(str, x.images.shape[1:])) for x in (a, b))
        raise ValueError(f"images of {ours} and of {theirs} (channels, height, width) differ: bring them to one form.")
    smallest = min(len(x.images) for x in (a, b) if isinstance(x, Images))
    if smallest < 2:
        raise ValueError(f"{smallest} image is too few to compare: give at least 2 on each side.")
    extractors: dict[tuple[str, str], Extractor] = {}
    if inception is not None:
        extractors["fid", "kid_inception"] = InceptionFeatures(inception)
    if isinstance(b, Statistics):
        if inception is None:
            raise ValueError("a reference of mu and sigma needs --inception=<path to Inception-V3's weights>.")
        (fid,) = extractors.values()
        if len(b.mu) != fid.num_features:
            raise ValueError(
                f"the reference has {len(b.mu)} features and Inception-V3 {fid.num_features}: give another."
            )
    else:
        extractors["fd_random", "kid_random"] = RandomFeatures(a.images.shape[1], features)
        data = next((x.data for x in (b, a) if x.data is not None and x.data.train_labels is not None), None)
        if data is not None:
            extractors["fd_classifier", "kid_classifier"] = ensure_classifier(data, outputs, features=features)
    found, left_out = [], []
    for (fd, kid), extractor in extractors.items():
        if smallest <= extractor.num_features:
            why = f"{extractor.num_features} features need more images than that, and there are {smallest}"
            if fd == "fid":
                raise ValueError(f"fid is not to be had: {why}; give more, or leave out --inception.")
            left_out.append(f"{fd} is left out: {why}.")
        fake = extractor(a.images)
        real = None if isinstance(b, Statistics) else extractor(b.images)
        floor = None
        if real is not None and b.floor is not None and len(b.floor) >= len(fake):
            floor = extractor(b.floor[: len(fake)])
        if smallest > extractor.num_features:
            gaussian = (b.mu, b.sigma) if real is None else (real.mean(dim=0), torch.cov(real.T))
            value, *replicates = frechet_to(*gaussian, [fake, *(fake[some] for some in kept(len(fake)))])
            of_real = None if floor is None else frechet_to(*gaussian, [floor])[0]
            found.append(Measured.of(Metric(fd), value, replicates, floor=of_real))
        if real is not None:
            of_real = None if floor is None else kernel(real, floor, *_SUBSETS)[0]
            replicates = kernel_replicates(real, fake, *_SUBSETS)
            found.append(Measured.of(Metric(kid), kernel(real, fake, *_SUBSETS)[0], replicates, floor=of_real))
    return found, left_out


def rows(measured: Sequence[Measured]) -> list[dict[str, str | float | None]]:
    """One row per distance."""
    return [{"metric": m.metric.name, "value": m.value, "spread": m.spread, "floor": m.floor} for m in measured]


def _data_set(name: str, outputs: Path) -> Images:
    group, _, part = name.removeprefix(_DATASET).partition("/")
    names = sorted(path.stem for path in (CONF / "dataset").glob("*.yaml") if path.stem != "folder")
    if group not in names or part not in ("", "train", "held_out"):
        raise ValueError(
            f"{name} is unknown: give dataset=<name> or dataset=<name>/held_out, one of {', '.join(names)}."
        )
    config = OmegaConf.create(
        {"paths": {"outputs": str(outputs)}, "d": OmegaConf.load(CONF / "dataset" / f"{group}.yaml")}
    )
    data = instantiate(config.d)
    if part == "held_out":
        return Images(data.held_out, data)
    return Images(data.train, data, data.held_out)


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
        return Statistics(mu, sigma)
    x = found.get("arr_0", found.get("samples"))
    if x is None or x.ndim != 4:
        raise ValueError(f"{path} must hold arr_0 (uint8 [N, H, W, C]), samples ([N, C, H, W]), or mu and sigma.")
    x = x.permute(0, 3, 1, 2) if "arr_0" in found else x
    if x.shape[1] not in (1, 3):
        raise ValueError(f"{path} holds images of {x.shape[1]} channels: 1 (grey) or 3 (colour) can be compared.")
    if x.is_floating_point():
        if "arr_0" in found or not bool((x.abs() <= 1.5).all()):  # a sampler oversteps [-1, 1] a little
            raise ValueError(f"{path} holds floats that are not in [-1, 1]: store bytes, uint8 0 ... 255.")
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
                kinds.add((*image.size, 1 if image.mode in ("1", "L", "I", "I;16") else 3))
        except (OSError, PIL.UnidentifiedImageError) as error:
            raise OSError(f"{file} cannot be read as an image: replace it or move it away.") from error
    (width, height, channels), *others = sorted(kinds)
    if others or width != height:
        raise ValueError(f"{path} must hold square images of one size, all grey or all in colour: convert them first.")
    return decode(files, width, channels)[0]

"""Sample grids and curves."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

GRID_IMAGES = 64
_SMALLEST_GRID = 400  # pixels a side: grids of small images are enlarged by a whole factor
_METRICS = {"solver_rmse": "solver error (RMSE)", "fd_random": "fd_random", "kid_random": "kid_random"}


def grid(samples: Tensor, columns: int | None = None) -> Tensor:
    """The first 64 samples, or all of them in so many columns, as one picture. uint8 [N, C, H, W] → [3, H', W']."""
    shown = samples if columns else samples[:GRID_IMAGES]
    return make_grid(shown, nrow=columns or math.ceil(math.sqrt(len(shown))), padding=2, pad_value=96)


def save_grid(samples: Tensor, path: Path, columns: int | None = None) -> None:
    """Write `grid(samples)` as a PNG, enlarged without smoothing until it can be looked at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil_image(_enlarged(grid(samples, columns))).save(path, optimize=True)


def save_image(image: Tensor, path: Path) -> None:
    """Write one image, uint8 [C, H, W], as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil_image(image).save(path)


def save_animation(steps: Sequence[tuple[Tensor, Tensor]], path: Path) -> None:
    """Write a GIF of a trajectory: each step's x_t above its predicted x0, uint8 [N, C, H, W] each; the last stays."""
    frames = [to_pil_image(_enlarged(grid(torch.cat(pair), columns=len(pair[0])))) for pair in steps]
    durations = [80] * (len(frames) - 1) + [2000]  # milliseconds
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def _enlarged(picture: Tensor) -> Tensor:
    factor = max(1, math.ceil(_SMALLEST_GRID / picture.shape[-1]))
    return picture.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def save_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Each metric against NFE on a log axis, one line an eta, the floor dashed."""
    shown = [metric for metric in _METRICS if any(row[metric] is not None for row in rows)]
    figure = Figure(figsize=(4.2 * len(shown), 3.4), layout="constrained")
    etas = sorted({row["eta"] for row in rows})
    for axes, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for color, eta in enumerate(etas):
            points = sorted((row["nfe"], row[metric]) for row in rows if row["eta"] == eta and row[metric] is not None)
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=f"C{color}", label=f"η = {eta:g}")
        floor = rows[0].get(f"{metric}_floor")
        if floor is not None:
            axes.axhline(floor, color="gray", linestyle="--", label="floor: real images")
        axes.set(xscale="log", xlabel="NFE (network evaluations a sample)", title=_METRICS[metric])
        if metric == "kid_random":  # unbiased, so it can fall below zero
            axes.set_yscale("symlog", linthresh=1e-3)
        else:
            axes.set_yscale("log")
        nfes = sorted({row["nfe"] for row in rows})
        axes.set_xticks(nfes, [str(nfe) for nfe in nfes])
        axes.xaxis.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    first = rows[0]
    figure.suptitle(f"{first['solver']}, schedule {first['schedule']}, {first['images']} images a cell")
    figure.savefig(path, dpi=130)


# Song et al. 2021, table 2: CIFAR-10 test images in [0, 1], encoded and decoded in S steps each
_PAPER_TABLE_2 = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}


def save_reconstruction(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The error of encoding and decoding against NFE, both axes logarithmic, the paper's figures beside it."""
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for method, label in (("euler", "encode, decode"), ("exact", "invert, decode")):
        points = sorted((row["nfe"], row["mse"]) for row in rows if row["method"] == method)
        if points:
            axes.loglog(*zip(*points, strict=True), "o-", label=label)
    axes.loglog(_PAPER_TABLE_2.keys(), _PAPER_TABLE_2.values(), "s--", color="gray", label="DDIM paper, CIFAR-10")
    axes.set(xlabel="NFE (evaluations, each way)", ylabel="mean squared error, pixels in [0, 1]")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=130)

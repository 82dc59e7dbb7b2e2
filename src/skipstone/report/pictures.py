"""Sample grids and curves."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

GRID_IMAGES = 64
_SMALLEST_GRID = 400  # pixels a side: grids of small images are enlarged by a whole factor
_METRICS = {"solver_rmse": "solver error (RMSE)", "fd_random": "fd_random", "kid_random": "kid_random"}


def grid(samples: Tensor) -> Tensor:
    """The first 64 samples as one picture. uint8 [N, C, H, W] → uint8 [3, H', W']."""
    shown = samples[:GRID_IMAGES]
    columns = math.ceil(math.sqrt(len(shown)))
    return make_grid(shown, nrow=columns, padding=2, pad_value=96)


def save_grid(samples: Tensor, path: Path) -> None:
    """Write `grid(samples)` as a PNG, enlarged without smoothing until it can be looked at."""
    picture = grid(samples)
    factor = max(1, math.ceil(_SMALLEST_GRID / picture.shape[-1]))
    picture = picture.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil_image(picture).save(path, optimize=True)


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

"""Results made by hand, for tests of what a person looks at."""

import torch

from skipstone.evaluation.evaluate import Result
from skipstone.evaluation.metrics import SOLVER_RMSE, Measured, Metric
from skipstone.evaluation.sampled import Film

STEPS = 5  # that a film shows
METRICS = ("fd_random", "kid_random", "fd_classifier", "kid_classifier", "fid", "kid_inception")


def make_result(schedule="uniform", tau=20, eta=0.0, nfe=50, shape=(1, 28, 28), own=False, film=True, n=64, level=100,
                names=METRICS[:2], name=None):  # fmt: skip
    """A cell whose samples are structure and noise, and in whose film frame f of sample k is the grey level+f+5k."""
    settings = dict(schedule=schedule, solver="ddim", sigma="paper", to_data=True, clip_x0=False, tau=tau, eta=eta)
    name = name or f"ddim-{schedule}-tau{tau}-eta{eta}"
    facts = {"cell": name, **settings, "nfe": nfe, "images": n}
    facts |= {"seconds": nfe / 100, "images_per_second": 100 * n / nfe}
    error = Measured(SOLVER_RMSE, None, 0.0) if eta else Measured(SOLVER_RMSE, 3 / nfe, 0.0, 0.1 / nfe, median=2 / nfe)
    measured = {"solver_rmse": error}
    for metric in names:
        kernel = metric.startswith("kid")
        value, floor, spread = ((30 / nfe - 1) * 1e-3, -2e-4, 1e-4) if kernel else (30 / nfe + eta, 0.5, 0.01)
        measured[metric] = Measured(Metric(metric), value, floor, spread)
    generator = torch.Generator().manual_seed(nfe)
    coarse = torch.randn(n, shape[0], 7, 7, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear") * 60 + 128
    samples = (pixels + 4 * torch.randn(pixels.shape, generator=generator)).clamp(0, 255).byte()
    levels = level + torch.arange(STEPS).view(-1, 1) + 5 * torch.arange(8)
    x = levels.byte().view(STEPS, 8, 1, 1, 1).expand(-1, -1, *shape)
    t = torch.linspace(900, 0, STEPS).long().tolist()
    shown = Film(t, [*t[1:], -1], x, 255 - x) if film else None
    return Result(own, samples, facts, measured, shown)


def make_grid(**options):
    """12 cells over two schedules; `exp` lacks eta 1 at its smaller tau, and holds the user's own off the grid."""
    cells = [
        (s, tau, eta, nfe) for s in ("uniform", "exp") for tau, nfe in ((100, 11), (20, 51)) for eta in (0.0, 0.5, 1.0)
    ]
    cells = [cell for cell in cells if cell != ("exp", 100, 1.0, 11)]
    found = [make_result(*cell, level=10 * i, **options) for i, cell in enumerate(cells)]
    return [*found, make_result("exp", 30, 0.25, 31, level=110, own=True, **options)]


def noisy_film(shape):
    """Twelve frames that compress no better than those of a real cell do: noise, less and less of it."""
    frames = [torch.rand(8, *shape) * 255 * (1 - f / 12) + 10 * f for f in range(12)]
    x = torch.stack(frames).byte()
    smooth = torch.nn.functional.avg_pool2d(x.flatten(0, 1).float(), 3, 1, 1).byte().view(x.shape)
    return Film(list(range(12)), list(range(-1, 11)), x, smooth)

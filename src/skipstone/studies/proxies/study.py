"""Is a proxy honest? Distances at graded damage to real images, and over the cells of a model.

Beside the distances stands `too_near` (metrics.MemoryCheck), which sees what they cannot: copies.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipstone.data import ImageSet
from skipstone.evaluation.evaluate import Result
from skipstone.evaluation.metrics import MemoryCheck, Proxies, rank_correlation
from skipstone.studies.proxies.corruptions import CORRUPTIONS

SEEN = 3.0  # standard deviations above the floor at which a proxy has seen a difference


@dataclass(frozen=True)
class Finding:
    """One series of growing damage, or of one of a model's settings.

    x: its levels.  z: each proxy's values [levels, repeats], in standard deviations above its floor.
    expected: the rank correlation with x that an honest distance comes near to, 0 where it has nothing to see; None
    where nobody knows, and only the proxies' agreement says something.
    graded: whether x is damage, whose first level is none.
    """

    name: str
    says: str
    x: list[float]
    z: dict[str, Tensor]
    expected: int | None
    graded: bool

    def correlation(self, proxy: str) -> float:
        """Spearman's rank correlation of the proxy with the level, over all repeats; 0 if the proxy never moves."""
        z = self.z[proxy]
        levels = torch.tensor(self.x, dtype=torch.float64)[:, None].expand_as(z)
        return rank_correlation(z.flatten(), levels.flatten()) or 0.0

    def seen_from(self, proxy: str) -> float | None:
        """The first level from which on the proxy stays more than SEEN above the floor, on average; None if never."""
        above = (self.z[proxy].mean(dim=1) > SEEN).tolist()
        later = [all(above[i:]) for i in range(len(above))]
        return self.x[later.index(True)] if True in later else None


class Floors:
    """The floor of every proxy and its spread, from several draws of n held-out images.

    device: where samples are compared with training images.
    """

    def __init__(
        self, images: ImageSet, proxies: Proxies, draws: int, device: torch.device, advance: Callable[[], None]
    ) -> None:
        if proxies.n > len(images.held_out) // 2:
            raise ValueError(
                f"n={proxies.n} is more than half of the {len(images.held_out)} held-out images, whose draws would all "
                "be alike and the floor seem certain: lower n or hold out more (dataset.held_out)."
            )
        self._proxies, self._memory = proxies, MemoryCheck(images, device)
        self.names = [*proxies.floors, "too_near"]
        values = []
        for seed in range(draws):
            order = torch.randperm(len(images.held_out), generator=torch.Generator().manual_seed(1000 + seed))
            values.append(self._values(images.held_out[order[: proxies.n]]))
            advance()
        stacked = torch.stack(values)
        self.mean, self.spread = stacked.mean(dim=0), stacked.std(dim=0).clamp(min=1e-9)  # too_near can be 0 in all

    def z(self, samples: Tensor) -> Tensor:
        """uint8 [n, C, H, W] → each proxy's distance from its floor, in standard deviations: float64 [proxies]."""
        return (self._values(samples) - self.mean) / self.spread

    def _values(self, samples: Tensor) -> Tensor:
        values = {name: each.value for name, each in self._proxies(samples).items()}
        values["too_near"] = self._memory(samples).too_near
        return torch.tensor([values[name] for name in self.names], dtype=torch.float64)


def damage(
    images: ImageSet, proxies: Proxies, floors: Floors, repeats: int, advance: Callable[[], None]
) -> list[Finding]:
    """Every corruption at every level; beside the distances `memorised`, the share of samples that look copied."""
    findings = []
    for corruption in CORRUPTIONS:
        z = torch.stack(
            [
                torch.stack([floors.z(corruption.at(images, proxies.n, level, seed)) for seed in range(repeats)])
                for level in _each(corruption.levels, advance)
            ]
        )
        series = {name: z[..., i] for i, name in enumerate(floors.names)}
        expected = 0 if corruption.name == "memorised" else 1
        findings.append(Finding(corruption.name, corruption.says, list(corruption.levels), series, expected, True))
    return findings


def _each(levels: Sequence[float], advance: Callable[[], None]) -> Iterator[float]:
    for level in levels:
        yield level
        advance()


def cells(results: Sequence[Result], floors: Floors) -> list[Finding]:
    """Over NFE at each η, where more evaluations are better, and over η at each NFE, where noise may cost or help."""
    z = [floors.z(result.samples) for result in results]
    rows = [result.facts for result in results]

    def series(name: str, says: str, key: str, chosen: dict[str, Any], expected: int | None) -> Finding:
        kept = sorted((row[key], i) for i, row in enumerate(rows) if all(row[k] == v for k, v in chosen.items()))
        values = torch.stack([z[i] for _, i in kept])
        z_of = {proxy: values[:, j, None] for j, proxy in enumerate(floors.names)}
        return Finding(name, says, [x for x, _ in kept], z_of, expected, graded=False)

    etas, nfes = (sorted({row[key] for row in rows}) for key in ("eta", "nfe"))
    found = [
        *(series(f"NFE at η = {eta:g}", "network evaluations", "nfe", {"eta": eta}, -1) for eta in etas),
        *(series(f"η at NFE {nfe}", "η", "eta", {"nfe": nfe}, None) for nfe in nfes),
    ]
    return [finding for finding in found if len(finding.x) > 1]  # an own cell off the grid has no series


def summary(findings: Sequence[Finding], floors: Floors) -> list[dict[str, str]]:
    """One row a series: of each proxy the rank correlation and, for damage, the level from which on it is seen."""
    rows = []
    for finding in findings:
        row = {"series": finding.name, "honest": "" if finding.expected is None else f"{finding.expected:+d}"}
        for name in floors.names:
            row[name] = f"{finding.correlation(name):+.2f}"
            if finding.graded:
                seen = finding.seen_from(name)
                row[name] += ", never" if seen is None else f", from {seen:g}"
        rows.append(row)
    return rows

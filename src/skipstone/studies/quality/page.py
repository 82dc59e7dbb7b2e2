"""quality.md, quality.csv and quality.png, from the rows that there are."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from skipstone.evaluation.metrics.jackknife import spread
from skipstone.report import csv, markdown
from skipstone.report.curves import plain_log
from skipstone.report.pictures import write as write_picture
from skipstone.report.rows import show
from skipstone.store import files
from skipstone.studies.paper.ledger import Ledger
from skipstone.studies.quality import published
from skipstone.studies.quality.candidates import BASE
from skipstone.studies.quality.race import BASELINE, BEST, CONVERGED, METRIC, Row

_MARKERS = "osD^vP*X<>hpd8"


def write(ledger: Ledger) -> Path:
    """Write what there is so far into the ledger's folder; the page."""
    folder, found = ledger.folder, Findings(ledger.rows)
    if found.rows:
        csv.write_rows([found.line(row) for row in found.rows], folder / "quality.csv")
    if found.names:
        write_picture(figure(found), folder / "quality.png", dpi=110)
    path = folder / "quality.md"
    with files.replacing(path) as whole:
        whole.write_text(page(ledger.results, found))
    return path


class Findings:
    """The rows of a race, and what they amount to.

    names: the families that are done.  nfes: the numbers of evaluations at which the baseline was measured.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        shown = [row for row in rows if row["role"] in (BASELINE, BEST)]
        self._best = {(row["part"], row["nfe"]): row for row in shown}
        self.names = list(dict.fromkeys(row["part"] for row in shown if row["role"] == BEST))
        self.nfes = [row["nfe"] for row in shown if row["role"] == BASELINE]
        self.converged = next((row for row in rows if row["role"] == CONVERGED), None)

    def row(self, name: str, nfe: int) -> Row | None:
        """The cell of a family, or of the baseline, that is shown."""
        return self._best.get((name, nfe))

    def distance(self, name: str, nfe: int) -> float | None:
        """Of its samples to the training images."""
        row = self.row(name, nfe)
        return None if row is None else row[METRIC]

    def excess(self, name: str, nfe: int) -> float | None:
        """The distance above that of the converged solution; 0 within the spread of their paired difference."""
        return self._excess(self.row(name, nfe))

    def _excess(self, row: Row | None) -> float | None:
        if row is None or self.converged is None or row.get("replicates") is None:
            return None
        difference = row[METRIC] - self.converged[METRIC]
        apart = spread([a - b for a, b in zip(row["replicates"], self.converged["replicates"], strict=True)])
        return 0.0 if difference <= apart else difference

    def share(self, name: str, nfe: int, of: str = BASELINE, excess: bool = False) -> float | None:
        """Of another's distance, or of its excess, at the same number of evaluations."""
        number = self.excess if excess else self.distance
        own, whole = number(name, nfe), number(of, nfe)
        return None if own is None or not whole else own / whole

    def first(self, nfe: int) -> str | None:
        """The family with the smallest distance; None where none has one."""
        there = [name for name in self.names if self.distance(name, nfe) is not None]
        return min(there, key=lambda name: self.distance(name, nfe), default=None)

    def line(self, row: Row) -> Row:
        """For the CSV: without replicates, with excess and shares."""
        line = {key: value for key, value in row.items() if key != "replicates"}
        if row["role"] in (BASELINE, BEST):
            line["excess"] = self.excess(row["part"], row["nfe"])
            line["share"] = self.share(row["part"], row["nfe"])
            line["share_of_excess"] = self.share(row["part"], row["nfe"], excess=True)
            line["published_share"] = published.share(row["part"], row["nfe"])
        return line


def page(results: dict[str, Any], found: Findings) -> str:
    """The Markdown."""
    sections = [_top(results, found), *(_tables(found) if found.names else [])]
    if results["left_out"]:
        sections.append(f"Left out so far: {', '.join(results['left_out'])}.")
    return "\n\n".join(sections) + "\n"


def _top(results: dict[str, Any], found: Findings) -> str:
    settings, machine, model = results["identity"], results["machine"], results["model"]
    said = (
        "# Quality against evaluations\n\n"
        f"One model, `{model['key']}` ({model['parameters'] / 1e6:.2f} M parameters), sampled on {machine['device']} "
        f"({machine['precision']}, torch {machine['torch']}). The command below wrote this page.\n\n"
        f"    {results['command']}\n\n"
        f"`{METRIC}` is the Fréchet distance of {settings['images']:,} samples to the training images, on features of "
        f"a classifier that names {results['classifier_accuracy']:.1%} of the held-out images rightly. All cells that "
        "are shown start from the same noise. At each number of evaluations (NFE), each solver has the order and the "
        f"steps that were best on {settings['images_tried']:,} samples from other noise; above 10 evaluations only the "
        "best three at 10 were tried. NFE counts every evaluation of the network; an analytical first step (AFS) has "
        "none. Steps *to t = 0* end at the process's first step, whose noise cannot be seen; steps *to data* spend one "
        "evaluation to remove it."
    )
    if found.converged is None:
        return said
    fine = found.converged
    return (
        f"{said}\n\nThe converged solution of the same ODE ({fine['solver']}, {fine['nfe']} evaluations) has "
        f"{show(fine[METRIC])} ± {show(fine[f'{METRIC}_std'])}, as many held-out real images "
        f"{show(fine[f'{METRIC}_floor'])}. **Excess** is a distance less that of the converged solution, and 0 within "
        "the spread of their paired difference. **Shares** are of DDIM on steps with ρ = 7 between the process's own "
        "ends, as in the published figures."
    )


def _tables(found: Findings) -> list[str]:
    def table(title: str, names: Sequence[str], cell: Callable[[str, int], str]) -> str:
        body = [[_label(name), *(cell(name, nfe) for nfe in found.nfes)] for name in names]
        return f"## {title}\n\n" + markdown.table(["NFE", *map(str, found.nfes)], body)

    def shares(name: str, nfe: int) -> str:
        theirs = published.share(name, nfe)
        return _share(found.share(name, nfe)) + ("" if theirs is None else f" ({_share(theirs)})")

    def way(name: str, nfe: int) -> str:
        row = found.row(name, nfe)
        return "–" if row is None else f"{row['solver']}, {row['spacing']}"

    every = [BASELINE, *found.names]
    sections = [
        table(f"`{METRIC}`", every, lambda name, nfe: show(found.distance(name, nfe))),
        table("Excess", every, lambda name, nfe: show(found.excess(name, nfe))),
        table("Shares of DDIM on ρ = 7, in brackets the published shares of FID", found.names, shares),
        _published_only(found),
        table("Shares of that DDIM's excess", found.names, lambda n, nfe: _share(found.share(n, nfe, excess=True))),
    ]
    if "DDIM" in found.names:
        others = [name for name in found.names if name != "DDIM"]
        sections.append(
            table("Shares of DDIM on its best steps", others, lambda n, e: _share(found.share(n, e, "DDIM")))
        )
    sections += [_first(found), "![Distances and shares against evaluations](quality.png)"]
    sections.append(table("The order and the steps that each cell has", found.names, way))
    return sections


def _published_only(found: Findings) -> str:
    """What is published of solvers that are not here."""
    others = [name for name in published.FID if name not in found.names and name != published.BASE]
    told = [
        f"{name} {', '.join(f'{published.share(name, nfe):.2f} at {nfe}' for nfe in published.FID[name])}"
        for name in others
    ]
    return f"Published besides: {'; '.join(told)}." if told else ""


def _first(found: Findings) -> str:
    told = []
    for nfe in found.nfes:
        name = found.first(nfe)
        if name is not None:
            row = found.row(name, nfe)
            told.append(
                f"- {nfe}: {name} ({row['solver']} on {row['spacing']}), {show(row[METRIC])}, "
                f"{_share(found.share(name, nfe))} of DDIM on ρ = 7 and {_share(found.share(name, nfe, 'DDIM'))} of "
                "DDIM on its best steps"
            )
    return "The best at each number of evaluations:\n\n" + "\n".join(told)


def _label(name: str) -> str:
    return f"DDIM, {BASE} (ρ = 7)" if name == BASELINE else name


def _share(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.2f}"


def figure(found: Findings) -> Figure:
    """Distances and their shares against NFE; published shares are dashed."""
    picture = Figure(figsize=(12.5, 5.2), layout="constrained")
    left, right = picture.subplots(1, 2)
    for i, name in enumerate([BASELINE, *found.names]):
        look = {"color": "black" if i == 0 else f"C{(i - 1) % 10}", "marker": _MARKERS[i % len(_MARKERS)]}
        for axes, number in ((left, found.distance), (right, found.share)):
            points = [(nfe, number(name, nfe)) for nfe in found.nfes if number(name, nfe) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), markersize=4, label=_label(name), **look)
        theirs = [(nfe, published.share(name, nfe)) for nfe in found.nfes if published.share(name, nfe) is not None]
        if theirs and name in found.names and name != published.BASE:
            right.plot(*zip(*theirs, strict=True), "--", color=look["color"], alpha=0.5, label=f"{name}, published")
    if found.converged is not None and found.converged[METRIC]:
        left.axhline(found.converged[METRIC], color="gray", linestyle=":", label="converged solution")
    for axes, label in ((left, METRIC), (right, "share of DDIM on ρ = 7")):
        axes.set_xscale("log")
        axes.set_xticks(found.nfes, map(str, found.nfes))
        axes.xaxis.set_minor_locator(NullLocator())
        low, high = axes.dataLim.intervaly
        plain_log(axes, high / low if low > 0 else 1)
        axes.set_xlabel("network evaluations")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    picture.legend(*right.get_legend_handles_labels(), loc="outside right center", fontsize="x-small")
    return picture

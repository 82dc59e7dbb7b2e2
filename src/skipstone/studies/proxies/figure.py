"""The figure of the study of proxies: how far above its floor each stands at each level."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from skipstone.report.pictures import write
from skipstone.studies.proxies.study import SEEN, Finding

_COLUMNS = 4


def save_study(findings: Sequence[Finding], path: Path) -> None:
    """One panel a series: each proxy's mean over the repeats, in standard deviations above its floor."""
    rows = math.ceil((len(findings) + 1) / _COLUMNS)
    figure = Figure(figsize=(3.4 * _COLUMNS, 2.9 * rows), layout="constrained")
    panels = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axes, finding in zip(panels, findings, strict=False):
        for color, (name, z) in enumerate(finding.z.items()):
            places = range(len(finding.x))  # levels are ranks here: what is asked is their order
            axes.plot(places, z.mean(dim=1), "o-", color=f"C{color}", label=name, markersize=4)
        axes.axhline(SEEN, color="gray", linestyle="--", label=f"seen: {SEEN:g} standard deviations")
        axes.set_yscale("symlog", linthresh=SEEN, linscale=0.6)
        axes.set_xticks(range(len(finding.x)), [f"{x:g}" for x in finding.x])
        axes.set_title(finding.name, fontsize="medium")
        axes.set_xlabel(finding.says, fontsize="small")
        axes.grid(alpha=0.3)
    for axes in panels[len(findings) :]:
        axes.axis("off")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    panels[len(findings)].legend(handles, labels, loc="center")
    figure.supylabel("standard deviations above the floor")
    write(figure, path, dpi=110)

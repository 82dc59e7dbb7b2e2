"""A fit as a picture and as rows."""

from pathlib import Path

from matplotlib.figure import Figure

from skipstone.fitting.fit import Fit
from skipstone.report import csv
from skipstone.report.pictures import write
from skipstone.solvers import StepTable


def save(fit: Fit, base: StepTable, path: Path) -> None:
    """Write the curve of the fit beside the table's file: .csv, and .png with the steps before and after."""
    csv.write_rows(fit.curve, path.with_suffix(".csv"))
    write(_figure(fit, base), path.with_suffix(".png"), dpi=110)


def _figure(fit: Fit, base: StepTable) -> Figure:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = [row["iteration"] for row in fit.curve]
    left.plot(at, [row["held_out"] for row in fit.curve], "o-", label="pairs that were never fitted")
    left.plot(at[1:], [row["fitted"] for row in fit.curve[1:]], "--", label="fitted pairs")
    left.axhline(fit.before, color="gray", linestyle=":", label=f"base: {fit.base}")
    left.set(xlabel="iteration", ylabel="objective", title=f"nfe={fit.table.nfe}: {fit.before:.3g} to {fit.after:.3g}")
    left.legend(fontsize=8)
    for table, name, colour in ((base, "base", "gray"), (fit.table, "table", "C0")):
        right.plot(range(1, 1 + len(table.t)), table.t, "o-", color=colour, label=f"{name}: t of each row")
    right.plot(range(1, 1 + len(fit.table.t)), fit.table.asked, "x", color="C3", label="t that the network is given")
    right.set(xlabel="row", title="visited times")
    right.set_xticks(range(1, 1 + max(len(base.t), len(fit.table.t))))
    right.legend(fontsize=8)
    return figure

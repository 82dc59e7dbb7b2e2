"""A picture of a table: its weights row by row, and how it amplifies errors."""

from pathlib import Path

import torch
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from skipstone.report.pictures import write
from skipstone.solvers import StepTable


def save_coefficients(table: StepTable, rates: torch.Tensor, growth: torch.Tensor | None, path: Path) -> None:
    """The weights as colours, one row of the table a line; beside them growth an evaluation against λh, where given."""
    weights = {"a": table.a, "b": table.b}
    weights |= {f"c{k + 1}": table.c[:, k] for k in range(table.c.shape[1])}
    weights |= {"u": table.u, "v": table.v, "s": table.s}
    shown = {name: column for name, column in weights.items() if bool(column.any())}
    rows = len(table.t)
    figure = Figure(figsize=(9.5, min(12.0, 2.2 + 0.26 * rows)), layout="constrained")
    left, right = figure.subplots(1, 2)
    values = torch.stack(list(shown.values()), dim=1)
    largest = float(values.abs().max())
    image = left.imshow(values, cmap="RdBu_r", norm=SymLogNorm(0.1, vmin=-largest, vmax=largest), aspect="auto")
    if rows <= 40:
        for i, row in enumerate(values.tolist()):
            for j, value in enumerate(row):
                if value:
                    left.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize="xx-small")
    each = max(1, rows // 25)
    steps = [f"{t:.4g} → {p:.4g}" for t, p in zip(table.f.tolist(), table.p.tolist(), strict=True)]
    left.set_yticks(range(0, rows, each), steps[::each], fontsize="x-small")
    left.set_xticks(range(len(shown)), list(shown))
    left.set_title("weights of each row, from t to t", fontsize="medium")
    figure.colorbar(image, ax=left)
    right.plot(rates, torch.exp(-rates), "--", color="gray", label="exact")
    if growth is not None:
        right.plot(rates, growth, label="this table")
    right.axhline(1, color="gray", linewidth=0.8)
    right.set(xlabel="λh of an evaluation", title="growth of an error an evaluation", ylim=(0, 2))
    right.legend(fontsize="small")
    right.grid(alpha=0.3)
    write(figure, path, dpi=110)

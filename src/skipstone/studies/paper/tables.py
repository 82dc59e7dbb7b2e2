"""Tables 1 and 2 beside the paper's figures, and the samples of Table 1's cells."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from skipstone.report import markdown
from skipstone.report.rows import Row, show
from skipstone.studies.paper import published, select
from skipstone.studies.paper.agreement import agreement
from skipstone.studies.paper.parts import CHECKED
from skipstone.studies.paper.select import fd_names


def table_1(rows: Sequence[Row]) -> str:
    """Every distance by η and NFE, and how far it agrees with the paper."""
    cells, full = select.table_1(rows), select.table_1(rows, every_step=True)
    if not cells and not full:
        return ""
    nfes = sorted({row["nfe"] for row in cells})
    spacing = ", ".join(f"{next(row['tau'] for row in cells if row['nfe'] == nfe)} for {nfe}" for nfe in nfes)
    said = [
        "## Table 1: quality against η and the number of steps",
        "Steps are spaced quadratically, as the paper has it for CIFAR-10 (appendix D.2), by its code's formula "
        "(`schedule=quad`), in which the first steps fall together from 50 on. τ is raised until as many steps as the "
        f"column says are distinct ({spacing}). The last step goes to clean data. σ̂ is `solver.sigma=large`; there, "
        "and nowhere else, the predicted x₀ is clipped, as in the paper's code.",
    ]
    if full:
        said.append(
            f"The column of {full[0]['nfe']:,} visits every step and has {full[0]['images']:,} images: it compares "
            "down the column and with its own floor, not along a row."
        )
    for name in fd_names(rows):
        said.append(f"**`{name}`**, in brackets the paper's FID (50,000 images, Inception):")
        said.append(_beside_paper(cells, full, nfes, name))
    said.append(agreement(cells, full, fd_names(rows)))
    said.append(_copies(cells))
    return "\n\n".join(filter(None, said))


def _beside_paper(cells: Sequence[Row], full: Sequence[Row], nfes: Sequence[int], name: str) -> str:
    columns = [[row for row in cells if row["nfe"] == nfe] for nfe in nfes] + ([full] if full else [])
    body = []
    for row in published.TABLE_1:
        line = [published.said(row)]
        for column in columns:
            ours = next((show(cell.get(name)) for cell in column if cell["row"] == row), "–")
            theirs = published.TABLE_1[row].get(column[0]["nfe"])
            line.append(ours if theirs is None else f"{ours} ({theirs})")
        body.append(line)
    return markdown.table(
        ["NFE", *(f"{column[0]['nfe']:,}" for column in columns)],
        [
            *body,
            ["floor", *(show(select.floor(column[0], name)) for column in columns)],
            ["images", *(f"{column[0]['images']:,}" for column in columns)],
        ],
    )


def _copies(cells: Sequence[Row]) -> str:
    near = [row for row in cells if row.get("too_near") is not None]
    if not near:
        return ""
    worst = max(near, key=lambda row: row["too_near"])
    if not worst["too_near"]:
        said = "none of the samples lies"
    else:
        where = f"{published.said(worst['row'])}, NFE {worst['nfe']}"
        said = f"at most {worst['too_near']:.1%} of a cell's samples ({where}) lie"
    return (
        f"Copies of training images: {said} as near to one as the nearest 1 % of held-out images do (`too_near`, of up "
        f"to {CHECKED:,} samples a cell)."
    )


def samples(rows: Sequence[Row], shown: Mapping[str, str]) -> str:
    """The pictures."""
    if "samples" not in shown:
        return ""
    said = [
        "## Samples",
        "The first samples of each cell, not chosen: column k is sample k, from the same start noise in every line.",
        f"![Samples by η and NFE]({shown['samples']})",
    ]
    best, names = select.best_cell(rows), fd_names(rows)
    if best is not None and "best" in shown:
        distance, floor = show(best[names[0]]), show(select.floor(best, names[0]))
        said += [
            f"The first 64 samples of the cell with the smallest `{names[0]}` ({distance}, floor {floor}): "
            f"{published.said(best['row'])}, NFE {best['nfe']}.",
            f"![Samples of the best cell]({shown['best']})",
        ]
    return "\n\n".join(said)


def table_2(rows: Sequence[Row]) -> str:
    """The error of going there and back."""
    cells = select.part(rows, "table 2")
    if not cells:
        return ""
    ours = ["here", *(show(row["mse"], 2) for row in cells)]
    theirs = ["the paper", *(show(published.TABLE_2.get(row["nfe"])) for row in cells)]
    if any(row["mse"] is None for row in cells):
        said = "A dash is where the images that came back are not finite."
    else:
        rises = [f"from {a['nfe']} to {b['nfe']}" for a, b in pairwise(cells) if b["mse"] >= a["mse"]]
        falls = f"does not fall {' nor '.join(rises)} steps" if rises else "falls with every column"
        below = [str(row["nfe"]) for row in cells if row["mse"] < published.TABLE_2.get(row["nfe"], 0)]
        lower = f"is below the paper's at {', '.join(below)}" if below else "is nowhere below the paper's"
        said = f"The error {falls}, and {lower}."
    return "\n\n".join(
        [
            "## Table 2: there and back",
            f"{cells[0]['images']:,} held-out images, encoded in S steps by DDIM's ODE and decoded in S, spaced as in "
            "Table 1; mean squared error a dimension, images in [0, 1].",
            markdown.table(["S", *(f"{row['nfe']:,}" for row in cells)], [ours, theirs]),
            said,
        ]
    )

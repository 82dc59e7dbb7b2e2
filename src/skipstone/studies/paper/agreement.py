"""Does a distance put the cells of Table 1 in the paper's order? A table of rank correlations, and what follows."""

from collections.abc import Sequence

from skipstone.evaluation.metrics import rank_correlation
from skipstone.report import markdown
from skipstone.report.rows import Row, finite, show
from skipstone.studies.paper import published

_FEWEST = 3  # cells that have an order worth a number
_ALL = 1 - 1e-9


def groups(cells: Sequence[Row], full: Sequence[Row]) -> dict[str, list[Row]]:
    """All cells of which the paper has a figure; those of each η, over NFE; those of each NFE, over η.

    full: the cells over every step, which have another number of images and are a group of their own.
    """
    known = [row for row in cells if row["nfe"] in published.TABLE_1[row["row"]]]
    found = {f"all {len(known)} cells": known}
    for name in published.TABLE_1:
        found[f"{published.said(name)}, over NFE"] = [row for row in known if row["row"] == name]
    for nfe in sorted({row["nfe"] for row in known}):
        found[f"NFE {nfe}, over η"] = [row for row in known if row["nfe"] == nfe]
    found["every step, over η"] = [row for row in full if row["nfe"] in published.TABLE_1[row["row"]]]
    return {name: rows for name, rows in found.items() if len(rows) >= _FEWEST}


def correlation(rows: Sequence[Row], name: str) -> float | None:
    """Spearman's between a distance and the paper's FIDs, over the cells that have both; None for fewer than three."""
    pairs = [(row[name], published.TABLE_1[row["row"]][row["nfe"]]) for row in rows if finite(row.get(name))]
    return rank_correlation(*zip(*pairs, strict=True)) if len(pairs) >= _FEWEST else None


def agreement(cells: Sequence[Row], full: Sequence[Row], names: Sequence[str]) -> str:
    """The table of correlations and the sentences; empty where there are too few cells."""
    found = groups(cells, full)
    if not found or not names:
        return ""
    values = {name: {group: correlation(rows, name) for group, rows in found.items()} for name in names}
    body = [[group, *(_signed(values[name][group]) for name in names)] for group in found]
    table = markdown.table(["cells", *(f"`{name}`" for name in names)], body)
    sentences = [_sentences(name, values[name], found) for name in names]
    top = "Rank correlation (Spearman's ρ) with the paper's FIDs:"
    return "\n\n".join([top, table, *sentences])


def _sentences(name: str, rho: dict[str, float | None], found: dict[str, list[Row]]) -> str:
    """What agrees with the paper by this distance, and what does not."""
    (whole, over_all), *series = rho.items()
    series = [(group, value) for group, value in series if value is not None]
    said = [f"`{name}` over {whole}: ρ = {_signed(over_all)}."]
    for what, chosen in (
        ("The paper's order exactly", [group for group, value in series if value >= _ALL]),
        ("Mostly the paper's order", [f"{group} ({value:+.2f})" for group, value in series if 0 < value < _ALL]),
        ("No agreement, or the reverse", [f"{group} ({value:+.2f})" for group, value in series if value <= 0]),
    ):
        if chosen:
            said.append(f"{what}: {'; '.join(chosen)}.")
    said.append(_best_etas(name, found))
    said.append(_farthest(name, found[whole]))
    return " ".join(filter(None, said))


def _best_etas(name: str, found: dict[str, list[Row]]) -> str:
    """The best row of every column, the paper's and ours."""
    parts = []
    for rows in (rows for group, rows in found.items() if group.endswith("over η")):
        rows = [row for row in rows if finite(row.get(name))]
        if len(rows) >= _FEWEST:
            ours = min(rows, key=lambda row: row[name])
            theirs = min(rows, key=lambda row: published.TABLE_1[row["row"]][row["nfe"]])
            same = "in both" if ours is theirs else f"in the paper, {published.said(ours['row'])} here"
            parts.append(f"at NFE {ours['nfe']} {published.said(theirs['row'])} {same}")
    return f"The best η: {'; '.join(parts)}." if parts else ""


def _farthest(name: str, rows: Sequence[Row]) -> str:
    """The cell whose place differs most."""
    rows = [row for row in rows if finite(row.get(name))]
    ours = {row["cell"]: i for i, row in enumerate(sorted(rows, key=lambda row: row[name]), 1)}
    by_paper = sorted(rows, key=lambda row: published.TABLE_1[row["row"]][row["nfe"]])
    theirs = {row["cell"]: i for i, row in enumerate(by_paper, 1)}
    row = max(rows, key=lambda row: abs(ours[row["cell"]] - theirs[row["cell"]]), default=None)
    if row is None or ours[row["cell"]] == theirs[row["cell"]]:
        return ""
    return (
        f"Farthest out of order: {published.said(row['row'])} at NFE {row['nfe']} ({show(row[name])}), place "
        f"{theirs[row['cell']]} of {len(rows)} in the paper and {ours[row['cell']]} here."
    )


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"

"""Schedules against each other, DDIM against the second-order solver, the fast path against float32; all at η = 0."""

from collections.abc import Mapping, Sequence
from typing import Any

from skipstone.evaluation.metrics import SOLVER_RMSE
from skipstone.report import markdown
from skipstone.report.rows import Row, finite, show
from skipstone.studies.paper import select
from skipstone.studies.paper.select import fd_names

_RMSE = SOLVER_RMSE.name


def schedules(results: dict[str, Any], rows: Sequence[Row]) -> str:
    """Uniform, exp and quad."""
    cells, nfes, names = select.part(rows, "schedules"), _nfes(results), fd_names(rows)
    if not cells or not names:
        return ""
    cells = [*_ddim_on_quad(rows, nfes), *cells]
    return "\n\n".join(
        [
            "## Uniform against exp",
            f"DDIM at η = 0, as near to each number of evaluations as a schedule comes. `{_RMSE}` is the distance of "
            f"the first {results['identity']['images_all_steps']:,} samples to the model's own fine solution "
            "from the same noise, in the [−1, 1] scale: it sees the solver's error alone. `quad` does not begin "
            "at the last step and takes the noise there for its own first step's, which counts as error, too.",
            _table(cells, nfes, names),
            " ".join(filter(None, (_order(cells, nfe, nfes, names[0]) for nfe in nfes))),
        ]
    )


def solvers(results: dict[str, Any], rows: Sequence[Row], shown: Mapping[str, str]) -> str:
    """DDIM and DPM-Solver++ on the same steps."""
    second, nfes, names = select.part(rows, "solvers"), _nfes(results), fd_names(rows)
    picture = f"![Distances and solver error against NFE]({shown['curves']})" if "curves" in shown else ""
    if not second or not names:
        return picture
    first = [*_ddim_on_quad(rows, nfes), *select.part(rows, "schedules")]
    said = [
        "## DDIM against the second-order solver",
        "DPM-Solver++ of order 2 (`solver=dpm_solver_pp`) on the same steps, η = 0.",
        _table([*first, *second], nfes, names),
        _pairs(first, second, names[0]),
        picture,
    ]
    return "\n\n".join(filter(None, said))


def precision(rows: Sequence[Row]) -> str:
    """The network as everything here was sampled, and the plain one in float32."""
    cells, names = select.part(rows, "precision"), fd_names(rows)
    if not cells:
        return ""
    fast, reference = cells
    body = [[row["precision"], *(show(row.get(name)) for name in names), show(row["difference"])] for row in cells]
    floor = ["floor", *(show(select.floor(reference, name)) for name in names), ""]
    said = [
        f"`{name}` differs by {show(abs(fast[name] - reference[name]), 2)}, "
        f"its floor is {show(select.floor(fast, name))}"
        for name in names
        if finite(fast.get(name)) and finite(reference.get(name))
    ]
    return "\n\n".join(
        [
            "## The fast path against float32",
            f"{fast['images']:,} samples, η = 0, NFE {fast['nfe']}, from the same noise: by the network as it was "
            "sampled for this page, and by the plain one in float32 (without TF32). The difference is "
            "absolute, its mean over all numbers, in the [−1, 1] scale.",
            markdown.table(["", *(f"`{name}`" for name in names), "difference"], [*body, floor]),
            f"{'; '.join(said)}." if said else "",
        ]
    )


def _nfes(results: dict[str, Any]) -> list[int]:
    return results["identity"]["nfes_compared"]


def _ddim_on_quad(rows: Sequence[Row], nfes: Sequence[int]) -> list[Row]:
    return [row for row in select.table_1(rows) if row["row"] == "0" and row["nfe"] in nfes]


def _wanted(row: Row, nfes: Sequence[int]) -> int:
    """The number of evaluations that the row was to come near to."""
    return min(nfes, key=lambda nfe: abs(nfe - row["nfe"]))


def _table(cells: Sequence[Row], nfes: Sequence[int], names: Sequence[str]) -> str:
    cells = sorted(cells, key=lambda row: (_wanted(row, nfes), row["schedule"], row["solver"]))
    told, metrics = ("solver", "schedule", "tau", "nfe"), (*names, _RMSE)
    body = [[*(str(row[key]) for key in told), *(show(row.get(metric)) for metric in metrics)] for row in cells]
    floor = ["floor", "", "", "", *(show(select.floor(cells[0], name)) for name in names), "0"]
    return markdown.table(["solver", "schedule", "τ", "NFE", *(f"`{metric}`" for metric in metrics)], [*body, floor])


def _order(cells: Sequence[Row], nfe: int, nfes: Sequence[int], name: str) -> str:
    """The schedules at one number of evaluations, the best first."""
    said = []
    for metric in (name, _RMSE):
        here = [row for row in cells if _wanted(row, nfes) == nfe and finite(row.get(metric))]
        if here:
            here.sort(key=lambda row: row[metric])
            order = ", ".join(f"{row['schedule']} ({show(row[metric])})" for row in here)
            said.append(f"by `{metric}` {order}")
    return f"At {nfe} evaluations, the best first: {'; '.join(said)}." if said else ""


def _pairs(first: Sequence[Row], second: Sequence[Row], name: str) -> str:
    """On how many of the same steps the second-order solver is better, by either measure, and by how much."""
    ddim = {(row["schedule"], row["nfe"]): row for row in first}
    both = [(ddim[at], row) for row in second if (at := (row["schedule"], row["nfe"])) in ddim]
    said = []
    for metric in (_RMSE, name):
        pairs = [(a, b) for a, b in both if finite(a.get(metric)) and finite(b.get(metric))]
        if not pairs:
            continue
        worse = [f"{b['schedule']} at {b['nfe']}" for a, b in pairs if b[metric] >= a[metric]]
        ratios = sorted(a[metric] / b[metric] for a, b in pairs)
        said.append(
            f"By `{metric}` the second-order solver is better in {len(pairs) - len(worse)} of {len(pairs)} pairs"
            + (f" (not on {', '.join(worse)})" if worse else "")
            + f"; DDIM's is {show(ratios[0], 2)} to {show(ratios[-1], 2)} times as large."
        )
    return " ".join(said)

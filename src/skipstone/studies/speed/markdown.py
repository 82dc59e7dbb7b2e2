"""Tables for the docs, from what --json wrote, so that no figure is typed by hand."""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from skipstone.report.markdown import code, literal
from skipstone.report.markdown import table as markdown_table
from skipstone.store.files import replacing

_HEAD = ("images/s", "evaluations/s", "TFLOP/s", "of the product", "time, of the first")
_SHOWN = 12  # kernels of a profile


def table(files: Sequence[str], into: Path | None = None) -> str:
    """Markdown of the benchmarks in these files. Raises ValueError, naming the file, for one that is none of ours.

    into: a page in which each takes the place between the lines <!-- NAME --> and <!-- /NAME -->, where NAME is that
    of its file without the suffix.
    """
    if not files:
        raise ValueError("name the files that --json wrote.")
    pages = {Path(file).stem: _page(_read(Path(file))) for file in files}
    if into is not None:
        _replace(into, pages)
    return "\n\n".join(pages.values())


def _replace(into: Path, pages: dict[str, str]) -> None:
    text = into.read_text()
    for name, page in pages.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, there, rest = text.partition(begin)
        _, ends, after = rest.partition(end)
        if not there or not ends:
            raise ValueError(f"{into} has no lines {begin.strip()} and {end} to put the table between.")
        text = f"{before}{begin}{page}\n{end}{after}"
    with replacing(into) as temporary:
        temporary.write_text(text)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        content["benchmark"], content["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file that --json wrote.") from error
    return content


def _page(content: dict[str, Any]) -> str:
    c = content
    how = f"{c['precision']}{', compiled' * c['compile']}{', own kernels' * c['kernels']}"
    peer = f", diffusers {c['diffusers']}" if any(row["peer"] for row in c["rows"]) else ""
    parts = [
        code(c["command"]),
        f"{c['device']}, torch {c['torch']}{peer}; {how}; {c['gflop']:.2f} GFLOP an evaluation; "
        f"{c['product']}: {c['product_tflops']:.4g} TFLOP/s. Medians.",
    ]
    for title, rows in groupby(c["rows"], key=lambda row: row["title"]):
        parts.append(markdown_table([literal(title), *_HEAD], map(_line, rows)))
    if c["notes"]:
        parts.append("\n".join(f"    {note}" for note in c["notes"]))
    if c.get("small"):
        parts.append(_small(c["small"]))
    for name, found in c["profiles"].items():
        parts.append(_profile(name, found))
    if c["left_out"]:
        parts.append("Left out: " + literal("; ".join(c["left_out"])) + ".")
    return "\n\n".join(parts)


def _line(row: dict[str, Any]) -> list[str]:
    return [
        literal(row["name"]),
        f"{row['images_per_second']:,.1f}",
        f"{row['evaluations_per_second']:,.0f}",
        f"{row['tflops']:.4g}",
        f"{row['of_product']:.1%}",
        f"{row['of_first']:.3f}",
    ]


def _small(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        kernels = ["–", "–"]
        if "kernels" in row:
            kernels = [f"{row['kernels']:.3f}", f"{row['milliseconds'] / row['kernels']:.2f}"]
        lines.append([str(row["n"]), f"{row['milliseconds']:.3f}", *kernels])
    return markdown_table(["n", "ms a step", "ms of kernels", "ratio"], lines)


def _profile(name: str, found: list[dict[str, Any]]) -> str:
    lines = [
        [code(kernel["name"][:70]), f"{kernel['milliseconds']:.3f}", str(kernel["calls"]), f"{kernel['share']:.1%}"]
        for kernel in found[:_SHOWN]
    ]
    rest = found[_SHOWN:]
    if rest:
        time, calls, share = (sum(kernel[key] for kernel in rest) for key in ("milliseconds", "calls", "share"))
        lines.append([f"{len(rest)} others", f"{time:.3f}", str(calls), f"{share:.1%}"])
    return markdown_table([f"kernels of {literal(name)}", "ms", "calls", "share"], lines)

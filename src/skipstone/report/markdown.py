"""Text and tables for a Markdown page, in which nothing that a user named is markup."""

import re
from collections.abc import Iterable, Sequence

_MARKUP = re.compile(r"[\\`*<>|~$&]|(?<!\w)_|_(?!\w)|(?<=\])[(\[:]")  # [1, 2] and min_snr are none
_LINES = re.compile(r"\s*[\r\n]\s*")


def literal(text: str) -> str:
    """Text that reads as it is, on one line."""
    return _MARKUP.sub(r"\\\g<0>", _LINES.sub(" ", text))


def code(text: str) -> str:
    """Text as code, whatever backticks are in it; in a table, `table` sees to its pipes."""
    text = _LINES.sub(" ", text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown. A pipe or the end of a line in one does not end it."""
    body = [_line(row) for row in rows]
    return "\n".join([_line(header), "|" + "---|" * len(header), *body])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\|", _LINES.sub(" ", cell)) for cell in cells) + " |"

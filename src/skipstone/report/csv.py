"""evaluation.csv, and other rows as CSV."""

import csv
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from skipstone.evaluation.evaluate import Result
from skipstone.store import files

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which one begins
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One row a cell; a value that a cell does not have is empty."""
    write_rows([result.row for result in results], path)


def write_rows(rows: Sequence[dict[str, Any]], path: Path, ours: Collection[str] = ()) -> None:
    """Rows as CSV, with every column that one of them has.

    A text that a spreadsheet would take for a formula has an apostrophe before it.

    ours: columns with texts of the package's own, such as "+0.98, from 0.2", which stay as they are
    """
    content = io.StringIO(newline="")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.writer(content)
    writer.writerow(map(_literal, columns))
    writer.writerows([row.get(name) if name in ours else _literal(row.get(name)) for name in columns] for row in rows)
    files.write(path, content.getvalue().encode(errors="backslashreplace"))


def _literal(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(_FORMULA) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"

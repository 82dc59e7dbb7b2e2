"""evaluation.csv, and other rows as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skipstone.evaluation.evaluate import Result
from skipstone.store import files


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One row a cell; a value that a cell does not have is empty."""
    write_rows([result.row for result in results], path)


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Rows as CSV, with every column that one of them has."""
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    files.write(path, content.getvalue().encode())

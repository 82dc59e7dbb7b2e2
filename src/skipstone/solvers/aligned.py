"""Columns as a person reads them."""

from collections.abc import Mapping, Sequence

_ENDS = 10  # lines at either end of a long table; what lies between is left out


def aligned(columns: Mapping[str, Sequence[str]]) -> str:
    """Columns of equal length below their names, each to the right; of long ones both ends."""
    widths = {name: max(len(name), *map(len, texts)) for name, texts in columns.items()}
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths.values(), strict=True))
             for row in zip(*columns.values(), strict=True)]  # fmt: skip
    if len(lines) > 2 * _ENDS + 1:
        lines[_ENDS:-_ENDS] = [f"… {len(lines) - 2 * _ENDS} more"]
    return "\n".join(["  ".join(name.rjust(width) for name, width in widths.items()), *lines])

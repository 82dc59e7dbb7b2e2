"""Step tables as files: readable JSON, one row a line, in which every number comes back to the last bit.

A file says what it holds (`format`, `version`), how many evaluations it costs, and what its maker wrote down
(`provenance`), and a digest of its rows. Which process it is for lies in its rows: each has the √ᾱ of its t.
"""

import hashlib
import json
import os
from pathlib import Path as File
from typing import Any

import torch

from skipstone.checked import checked
from skipstone.process import ForwardProcess
from skipstone.solvers.table import StepTable

_FORMAT = "skipstone step table"
_PLAIN, _GUIDED = 1, 2  # versions; only the second has w and null, which who reads the first alone would pass over
_TIMES = ("f", "t", "p", "asked")
_NUMBERS = ("sqrt_alpha_bar", "sqrt_one_minus_alpha_bar", "a", "b", "s", "u", "v")
_SAME = 1e-9  # of √ᾱ, relative: another process is much further away


@checked
def save_table(table: StepTable, path: str | os.PathLike, provenance: dict[str, Any] | None = None) -> None:
    """Write the table to a file, in place of one that is there.

    provenance: what JSON can hold: the solver and its order, the schedule, what it was fitted to.
    """
    data = table_data(table, provenance)
    lines = ",\n".join("  " + json.dumps(row) for row in data.pop("rows"))
    text = json.dumps(data, indent=1, ensure_ascii=False)[:-2] + f',\n "rows": [\n{lines}\n ]\n}}\n'
    temporary = File(f"{os.fspath(path)}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def table_data(table: StepTable, provenance: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a table's file holds, as JSON's own types."""
    guided = table.guided or bool(table.null.any())
    more = ("w", "null") if guided else ()
    columns = {name: getattr(table, name).tolist() for name in (*_TIMES, "evaluated", *_NUMBERS, "c", *more)}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {
        "format": _FORMAT,
        "version": _GUIDED if guided else _PLAIN,
        "evaluations": table.nfe,
        "provenance": provenance or {},
        "clip_x0": table.clip_x0,
        "start_scale": table.start_scale,
        "digest": _digest(rows),
        "rows": rows,
    }


def table_of(data: Any, source: str | os.PathLike) -> StepTable:
    """The table of `table_data`'s result. Raises ValueError, naming the source, for what is none."""
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ValueError(f'{source} is no step table: "format" is not "{_FORMAT}"; give the file of a table.')
    if data.get("version") not in (_PLAIN, _GUIDED):
        raise ValueError(f"{source} has version {data.get('version')!r}, and version {_GUIDED} is read here: update.")
    try:
        table = _table(data)
        if data.get("digest") not in (None, _digest(data["rows"])):
            raise ValueError(
                "its rows are not those that were saved; if you changed them on purpose, remove the digest"
            )
        return table
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{source} is damaged ({type(error).__name__}: {error}): save the table again.") from None


@checked
def load_table(path: str | os.PathLike, process: ForwardProcess | None = None) -> StepTable:
    """The table of a file.

    process: the one that it is to run on. Raises ValueError for a table of another one.
    Raises ValueError for a file that is no table, of another version, or damaged, and OSError where there is none.
    """
    try:
        text = File(path).read_text(encoding="utf-8")
        data = json.loads(text)
    except ValueError as error:  # of JSON, and of UTF-8
        raise ValueError(f"{path} is no step table: it is not JSON ({error}); give the file of a table.") from None
    table = table_of(data, path)
    if process is not None:
        require_process(table, process)
    return table


def require_process(table: StepTable, process: ForwardProcess) -> None:
    """Raise ValueError unless the table's √ᾱ are those of this process."""
    inside = bool((table.t > -1).all()) and bool((table.t <= process.num_steps - 1).all())
    if not inside or not torch.allclose(process.alpha_bar(table.t).sqrt(), table.sqrt_alpha_bar, rtol=_SAME, atol=0):
        raise ValueError(
            "this table is for another process: its alpha_bar are not those of the model; make it for this one."
        )


def _digest(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _table(data: dict[str, Any]) -> StepTable:
    rows, clip_x0, start_scale = data["rows"], data["clip_x0"], float(data.get("start_scale", 1.0))
    if not rows or not isinstance(clip_x0, bool) or not 0 < start_scale <= 1:
        raise ValueError("it has no rows, or clip_x0 is not true or false, or start_scale is not in 0 ... 1")
    integers = all(type(row[name]) is int for row in rows for name in _TIMES)
    columns: dict[str, Any] = {
        name: torch.tensor([row[name] for row in rows], dtype=torch.int64 if integers else torch.float64)
        for name in _TIMES
    }
    guided = data["version"] == _GUIDED
    for name in (*_NUMBERS, "c", *(["w"] if guided else [])):
        columns[name] = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        if not bool(columns[name].isfinite().all()):
            raise ValueError(f"{name} has numbers that are not finite")
    if columns["c"].ndim != 2 or any(columns[name].ndim != 1 for name in (*_TIMES, *_NUMBERS)):
        raise ValueError("its columns are not of the right shape")
    columns["evaluated"] = torch.tensor([row["evaluated"] for row in rows])
    if columns["evaluated"].dtype != torch.bool or not bool(columns["evaluated"][1:].all()):
        raise ValueError("evaluated must be true, and may be false in the first row")
    if guided:
        columns["null"] = torch.tensor([row["null"] for row in rows])
        if columns["null"].dtype != torch.bool or columns["w"].ndim != 1 or columns["w"][0] != 0:
            raise ValueError("null must be true or false, and w a number, 0 in the first row")
        if bool((columns["w"] != 0).any()) and not columns["c"].shape[1]:
            raise ValueError("w asks for what the row before has left, and c has no column for it")
    signal = columns["sqrt_alpha_bar"] ** 2 + columns["sqrt_one_minus_alpha_bar"] ** 2
    if not bool((signal - 1).abs().max() < _SAME) or data["evaluations"] != int(columns["evaluated"].sum()):
        raise ValueError("its numbers contradict each other")
    return StepTable(**columns, clip_x0=clip_x0, start_scale=start_scale)

"""Fitted tables, kept in the model's folder: tables/fitted-nfe5.json, which says whose it is and how it was made."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipstone.process import ForwardProcess
from skipstone.solvers import StepTable, load_table, save_table
from skipstone.store import files

_WEIGHTS = "weights"  # in the provenance, the digest of those that the table was fitted to


@dataclass(frozen=True)
class KeptTables:
    """The tables of one network.

    folder:  the model's.
    weights: a digest of its weights.
    command: with which one is fitted, without its settings.
    """

    folder: Path
    weights: str
    command: str

    def path(self, nfe: int) -> Path:
        """Of the table for so many evaluations, whether it is there or not."""
        return self.folder / "tables" / f"fitted-nfe{nfe}.json"

    def write(self, table: StepTable, provenance: dict[str, Any]) -> Path:
        """Keep a table, in place of one for as many evaluations; its path.  provenance: how it was made."""
        path = self.path(table.nfe)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as whole:
            save_table(table, whole, {_WEIGHTS: self.weights, **provenance})
        return path

    def nfes(self) -> list[int]:
        """For how many evaluations there are tables."""
        names = (re.fullmatch(r"fitted-nfe(\d+)\.json", path.name) for path in self.folder.glob("tables/*.json"))
        return sorted(int(name[1]) for name in names if name)

    def read(self, nfe: int, process: ForwardProcess) -> StepTable:
        """The table for so many evaluations. Raises ValueError where there is none, or not of this network."""
        path, fit = self.path(nfe), f"{self.command} run={self.folder.name} nfe={nfe}"
        if not path.is_file():
            there = ", ".join(map(str, self.nfes()))
            raise ValueError(
                f"no table is fitted to {self.folder.name} for nfe={nfe}; "
                f"{f'there are those for nfe={there}' if there else 'there is none'}: run {fit}."
            )
        try:
            table = load_table(path, process)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: run {fit}.") from error
        made = json.loads(path.read_text(encoding="utf-8")).get("provenance")
        if not isinstance(made, dict) or made.get(_WEIGHTS) != self.weights or table.nfe != nfe:
            raise ValueError(f"{path} was fitted to another model, or for another nfe: run {fit}.")
        return table

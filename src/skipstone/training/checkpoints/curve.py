"""The model's own metrics.csv."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only


class Curve(CSVLogger):
    """metrics.csv, whose rows every checkpoint holds, too: a resumed training writes it again, as it then was.

    rows: the past ones, in order.
    """

    def __init__(self, folder: Path, rows: Sequence[dict[str, float]] = ()) -> None:
        (folder / "metrics.csv").unlink(missing_ok=True)
        super().__init__(folder, name="", version="")
        self.rows = list(rows)
        self.experiment.metrics.extend(dict(row) for row in rows)
        self.save()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        row = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        self.rows.append({**row, "step": step})
        super().log_metrics(row, step)

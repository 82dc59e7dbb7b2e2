"""What a benchmark found: for the eye while it runs, as JSON for machines, and from that as Markdown for the docs."""

import json
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from skipstone.commands.called import called
from skipstone.store import files
from skipstone.studies.speed import clock
from skipstone.studies.speed.clock import Measured
from skipstone.studies.speed.subject import Subject


class Report:
    """Gathers rows, notes and profiles of one benchmark; prints each at once, and writes them all to `path` each time.

    So a benchmark that is cut off leaves what it had found.
    """

    def __init__(self, benchmark: str, subject: Subject, path: Path | None) -> None:
        self.path = path
        self.device = subject.device
        self.rate, product = clock.product_rate(self.device)
        cuda = self.device.type == "cuda"
        self.content: dict[str, Any] = {
            "benchmark": benchmark,
            "command": shlex.join([*called("benchmark"), *sys.argv[1:]]),
            "device": torch.cuda.get_device_name(self.device) if cuda else platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "diffusers": installed("diffusers"),
            "precision": subject.settings["precision"],
            "kernels": subject.settings["kernels"],
            "compile": subject.settings["compile"] and not subject.settings["kernels"],
            "gflop": subject.flop / 1e9,
            "product": product,
            "product_tflops": self.rate / 1e12,
            "rows": [],
            "left_out": [],
            "notes": [],
            "profiles": {},
        }
        c = self.content
        how = f"{c['precision']}{', compiled' * c['compile']}{', own kernels' * c['kernels']}"
        print(f"{benchmark} on {c['device']}, torch {c['torch']}, {how}")
        print(f"{c['gflop']:.3f} GFLOP an evaluation; {product}: {c['product_tflops']:.2f} TFLOP/s")

    def add(self, measured: list[Measured], left_out: list[str], title: str = "") -> list[dict[str, Any]]:
        """Rows that compare with the first of them: what was measured together. Returns them."""
        rows = [self._row(one, title) for one in measured]
        for row in rows:
            row["of_first"] = rows[0]["evaluations_per_second"] / row["evaluations_per_second"]
        self.content["rows"] += rows
        self.content["left_out"] += left_out
        print(f"\n{title:30} images/s  evaluations/s  TFLOP/s  of product  time, of the first")
        for row in rows:
            print(
                f"{row['name']:30} {row['images_per_second']:8.1f} {row['evaluations_per_second']:14.1f} "
                f"{row['tflops']:8.3f} {row['of_product']:10.1%} {row['of_first']:11.3f}"
            )
        for sentence in left_out:
            print(f"left out: {sentence}")
        self.write()
        return rows

    def _row(self, measured: Measured, title: str) -> dict[str, Any]:
        did = measured.contender
        return {
            "title": title,
            "name": did.name,
            "peer": did.peer,
            "images": did.images,
            "evaluations": did.evaluations,
            "first_seconds": measured.first_seconds,
            "seconds": measured.seconds,
            "median_seconds": measured.median,
            "images_per_second": did.images / measured.median,
            "evaluations_per_second": did.evaluations / measured.median,
            "tflops": did.flop / measured.median / 1e12,
            "of_product": did.flop / measured.median / self.rate,
        }

    def note(self, name: str, value: Any, sentence: str) -> None:
        """A further finding: `value` for machines, `sentence` for the eye."""
        self.content[name] = value
        self.content["notes"].append(sentence)
        print(sentence)
        self.write()

    def write(self) -> None:
        """Bring the file up to date."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with files.replacing(self.path) as temporary:
                temporary.write_text(json.dumps(self.content, indent=1) + "\n")


def installed(package: str) -> str | None:
    """Its version, or None if it is not here."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None

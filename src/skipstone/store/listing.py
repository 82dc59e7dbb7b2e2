"""The stored models for a person: what there is, and how one is removed."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skipstone.store import claims, locks
from skipstone.store.models import ModelStore
from skipstone.store.stored import read_config


def rows(store: ModelStore) -> list[dict[str, Any]]:
    """One row per finished model, the one that was finished last at the end: see `row`."""
    keys = sorted(store.keys(), key=lambda key: store.finished_at(key) or 0)
    return [row(store.folder(key)) for key in keys]


def row(folder: Path) -> dict[str, Any]:
    """Key, data set, network, steps of training, size on disk and date of the finished model in `folder`.

    What cannot be read is None.
    """
    try:
        config = read_config(folder, foreign=True)
    except ValueError:
        config = {}
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    date = time.localtime((claims.finished_at(folder) or 0) / 1e9)
    return {
        "key": folder.name,
        "data set": config.get("dataset", {}).get("name"),
        "network": config.get("model", {}).get("_target_", "").rpartition(".")[2] or None,
        "steps": config.get("trainer", {}).get("max_steps"),
        "size": f"{size / 1e6:.1f} MB",
        "date": time.strftime("%Y-%m-%d %H:%M", date),
    }


def remove(store: ModelStore, key: str, named: Callable[[dict[str, Any]], None] = lambda row: None) -> None:
    """Remove the finished model of this whole key, with everything in its folder.

    named: is called with its row before

    Raises FileNotFoundError where there is none, ValueError while another process trains it anew or writes into it.
    """
    there = store.keys()
    if key not in there:
        raise FileNotFoundError(f"remove={key} is no model's whole key: there is {store.listed()}.")
    folder = store.folder(key)
    with locks.held(store.root / f"{key}.lock", f"remove={key}", wait=False):
        for inner in folder.glob("*.lock"):
            with locks.held(inner, f"remove={key}", wait=False):
                pass  # left by a process that died
        named(row(folder))
        (folder / claims.DONE).unlink()  # the first to go, because half a model must not be taken for one
        shutil.rmtree(folder)

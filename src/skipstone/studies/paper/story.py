"""What a reader must know beside the numbers: the model, the data, how to read, what was tried, the time it took."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

import yaml

from skipstone.report import markdown
from skipstone.report.markdown import literal
from skipstone.report.rows import Row, show
from skipstone.studies.paper import select
from skipstone.studies.paper.select import fd_names, value

_JPEG = (
    "**Its images were compressed as JPEG**, which loses detail for good. The model learned to make images with JPEG's "
    "traces, its samples are compared with images that have them, and the floors are of such images, too. So the "
    "numbers here compare among themselves, and neither with published FIDs nor with numbers on the original images: "
    "what can be held against the paper is the order of the cells, not their values."
)
_NO_FID = (
    "None of the numbers is FID: they compare among themselves, and what can be held against the paper is the order of "
    "the cells, not their values."
)


def read_tried(path: str | None) -> list[dict[str, Any]]:
    """The rows of a YAML or JSON file: a list with one flat mapping a trained model. None: no rows.

    Raises OSError or ValueError that says what the file must be.
    """
    if path is None:
        return []
    try:
        rows = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise FileNotFoundError(f"tried={path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"tried={path} is neither YAML nor JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "what" in row for row in rows):
        raise ValueError(f"tried={path} is not allowed: it is a list of mappings, each with a `what`.")
    return rows


def top(results: dict[str, Any]) -> str:
    """Model, device, commands, data, and what is missing."""
    model, data, machine = results["model"], results["data"], results["machine"]
    devices = dict.fromkeys(part["device"] for part in results["parts"].values()) or [machine["device"]]
    trained = ""
    if model["images_seen"]:
        trained = f", trained on {model['images_seen']:,} images in {model['seconds']:,.0f} s"
    compiled = ", compiled" if machine["compiled"] else ""
    first = (
        f"One model, `{model['key']}` ({model['parameters'] / 1e6:.2f} M parameters{trained}), sampled on "
        f"{' and '.join(devices)} ({machine['precision']}{compiled}, torch {machine['torch']}). The command below "
        "wrote this page, its pictures and its sentences from what it measured."
    )
    commands = "\n".join(indent(line, "    ") for line in (results["train_command"], results["command"]) if line)
    left = results["left_out"]
    missing = f"**Missing here, for want of time:** {'; '.join(left)}." if left else ""
    channels, height, width = data["shape"]
    what = (
        f"**Data:** `{data['name']}`, {data['train']:,} {'colour' if channels == 3 else 'grey'} images of {height} "
        f"× {width} to train on{', mirrored half of the time' if data['flip'] else ''}, {data['held_out']:,} held out. "
        f"{_JPEG if data['jpeg'] else _NO_FID}"
    )
    return "\n\n".join(filter(None, ["# The paper's tables", first, commands, missing, what]))


def reading(results: dict[str, Any], rows: Sequence[Row]) -> str:
    """What the distances are."""
    names, identity, accuracy = fd_names(rows), results["identity"], results["classifier_accuracy"]
    if not names:
        return ""
    classifier = ""
    if accuracy is not None:
        classifier = (
            " On colour pictures trust `fd_classifier` ([why](metrics.md)), whose classifier names "
            f"{accuracy:.1%} of the held-out images rightly."
        )
    return (
        "## How to read the numbers\n\n"
        f"`{'`, `'.join(names)}`: Fréchet distances between samples and real training images, on "
        f"{identity['metrics']['features']} features.{classifier} The **floor** is the score of the same number of "
        "held-out real images. A distance of fewer images is biased upwards: compare only numbers of the same number "
        "of images, and each with its floor. **NFE** counts network evaluations a sample. All cells start from the "
        "same noise. `results.csv` has every cell, with kernel distances."
    )


def model(results: dict[str, Any], rows: Sequence[Row], shown: Mapping[str, str]) -> str:
    """The model's settings, its losses, and one row a model that was tried."""
    ours, baseline = results["model"], results["baseline"]
    settings = {name: ours[name] for name in ("network", "training", "trainer") if ours[name]}
    said = [
        "## The model, and what was tried",
        markdown.table(["", f"`{ours['key']}`"], [[name, _settings(of)] for name, of in settings.items()]),
        f"![The losses of the training]({shown['loss']})" if "loss" in shown else "",
    ]
    names, nfes = fd_names(rows), results["identity"]["nfes_compared"]
    if names:
        tried = [] if baseline is None else [
            _tried("baseline", baseline, select.part(rows, "baseline"), names[0], nfes)
        ]  # fmt: skip
        at_0 = [row for row in select.table_1(rows) if row["row"] == "0"]
        theirs = [{literal(name): _literal(what) for name, what in row.items()} for row in results["tried"]]
        tried += [*theirs, _tried("**this model**", ours, at_0, names[0], nfes)]
        header = list(dict.fromkeys(name for row in (tried[-1], *tried) for name in row))
        said.append(
            f"What was tried and what it gave: `{names[0]}` at η = 0, {results['identity']['images']:,} images, the "
            "steps of Table 1. Seconds are those between a training's first file and its last."
        )
        said.append(
            markdown.table([name.replace("_", " ") if "fd_" not in name else name for name in header],
                  [[value(row.get(name)) for name in header] for row in tried])
        )  # fmt: skip
    return "\n\n".join(filter(None, said))


def _settings(of: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_target_', 'class')} {literal(value(what))}" for name, what in of.items())


def _literal(thing: Any) -> Any:
    return literal(thing) if isinstance(thing, str) else thing


def _tried(what: str, facts: dict[str, Any], rows: Sequence[Row], name: str, nfes: Sequence[int]) -> dict[str, Any]:
    distances = {row["nfe"]: row.get(name) for row in rows}
    return {
        "what": f"{what} `{facts['key']}`",
        "images_seen": facts["images_seen"],
        "seconds": None if facts["seconds"] is None else round(facts["seconds"]),
        **{f"{name} at {nfe}": distances.get(nfe) for nfe in nfes},
    }


def time(results: dict[str, Any]) -> str:
    """Of every part, and of what came before."""
    if not results["parts"]:
        return ""
    body = []
    for name, part in results["parts"].items():
        sampling = part["sampling_seconds"]
        speed = [f"{part[what] / sampling:,.0f}" for what in ("images", "evaluations")]
        counts = [f"{part[what]:,}" for what in ("images", "evaluations")]
        body.append([name, *counts, f"{sampling:.1f}", *speed, f"{part['seconds']:.1f}"])
    sums = [sum(part[what] for part in results["parts"].values()) for what in ("sampling_seconds", "seconds")]
    body.append(["all", "", "", f"{sums[0]:.1f}", "", "", f"{sums[1]:.1f}"])
    before = ", ".join(f"{what} {show(seconds, 2)} s" for what, seconds in results["before"].items())
    header = ["part", "images", "evaluations", "seconds sampling", "images/s", "evaluations/s", "seconds in all"]
    return "\n\n".join(["## The time each took", markdown.table(header, body), f"Before the first part: {before}."])

"""A model card: what a repository of the Hugging Face Hub shows of a network."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from skipstone.evaluation.metrics import metric
from skipstone.report import markdown
from skipstone.report.rows import show

_SHOWN = ("schedule", "solver", "tau", "eta", "nfe", "images")
_USE = {
    "diffusers": """from diffusers import DDIMPipeline

images = DDIMPipeline.from_pretrained("<this repository>")(batch_size=16, num_inference_steps=20).images""",
    "safetensors": """import skipstone

model, process = skipstone.load("model.safetensors", like="<a config.yaml with the same network>")""",
    "onnx": """import onnxruntime

network = onnxruntime.InferenceSession("model.onnx")
(eps,) = network.run(["eps"], {"x": x, "t": t})  # float32 [n, C, H, W] in [-1, 1], int64 [n]""",
}


def card(title: str, form: str, facts: Mapping[str, Any], cells: Sequence[Mapping[str, str]]) -> str:
    """A model card as Markdown, with the fields that the Hub reads.

    title:  of the model
    form:   what it is exported to: diffusers, safetensors or onnx
    facts:  what is known of it, by name; `license` is also a field of the Hub
    cells:  rows of an evaluation.csv: one line each
    """
    fields = {"license": facts.get("license") or "other", "tags": ["unconditional-image-generation", "ddim"]}
    if form == "diffusers":
        fields["library_name"] = "diffusers"
    head = yaml.safe_dump(fields, sort_keys=False)
    lines = [f"- {name}: {markdown.literal(str(value))}" for name, value in facts.items() if value is not None]
    parts = [f"---\n{head}---\n\n# {markdown.literal(title)}", "\n".join(lines)]
    if cells:
        parts += [_table([{name: _number(text) for name, text in cell.items()} for cell in cells])]
        parts += ["A floor is the score of the same number of held-out real images. No distance here but `fid` is FID."]
    return "\n\n".join([*parts, f"```python\n{_USE[form]}\n```\n"])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    numbers = [metric.read(row) for row in rows]
    settings, names = [name for name in _SHOWN if name in rows[0]], list(numbers[0])
    header = [*settings, *(column for name in names for column in (name, "floor"))]
    return markdown.table(header, [
        [markdown.literal(show(value)) for value in (
            *(row[name] for name in settings),
            *(value for name in names for value in (of_row[name].value, of_row[name].floor)),
        )]
        for row, of_row in zip(rows, numbers, strict=True)
    ])  # fmt: skip


def _number(text: str) -> float | str | None:
    """A value of evaluation.csv as what it was."""
    try:
        return float(text) if text else None
    except ValueError:
        return text

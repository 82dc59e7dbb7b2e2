"""What the report of a sweep tells of all its jobs: its title, the models trained in it, and what they remember."""

from collections.abc import Sequence
from typing import Any

from skipstone.evaluation.evaluate import Result
from skipstone.evaluation.results import About
from skipstone.report.rows import caption, choices, swept

Told = tuple[dict[str, Any], About]  # the facts of a job's own cell, and what the job tells beside its cells


def title(results: Sequence[Result]) -> str:
    """What a sweep is over: the settings in which its cells differ."""
    differing = [name for name, values in choices([result.facts for result in results]).items() if len(values) > 1]
    return f"Sweep over {', '.join(differing)}" if differing else "Sweep"


def trainings(told: Sequence[Told]) -> list[dict[str, Any]]:
    """One row per model: the settings that it alone has, its steps, the seconds of its training, its last losses."""
    rows = []
    for model, jobs in _by_model(told).items():
        training = next((about.training for _, about in jobs if about.training.seconds is not None), None)
        known = training or jobs[0][1].training
        ends = {f"last {name}": points[-1][1] for name, points in known.losses.items()}
        resumed = {"from step": known.begun_at} if known.begun_at else {}
        rows.append({"model": model, **_own(jobs), "steps": known.steps, **resumed, "seconds": known.seconds, **ends})
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def losses(told: Sequence[Told]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The losses of each model, by what tells it apart."""
    of_models = _by_model(told)
    labels = {
        model: ", ".join(f"{key}={value}" for key, value in _own(jobs).items()) for model, jobs in of_models.items()
    }
    if len(set(labels.values())) < len(labels):
        labels = {model: model for model in labels}
    return {labels[model] or model: jobs[0][1].training.losses for model, jobs in of_models.items()}


def memory(told: Sequence[Told]) -> list[dict[str, Any]]:
    """One row per cell whose samples were held against the training images."""
    return [
        {
            "cell": caption(facts),
            "too near": about.memory.too_near,
            "distance of samples": about.memory.samples,
            "distance of held-out images": about.memory.held_out,
        }
        for facts, about in told
        if about.memory is not None
    ]


def _by_model(told: Sequence[Told]) -> dict[str, list[Told]]:
    found: dict[str, list[Told]] = {}
    for facts, about in told:
        found.setdefault(facts["model"], []).append((facts, about))
    return found


def _own(jobs: Sequence[Told]) -> dict[str, Any]:
    """The swept settings that all jobs of a model share."""
    keys = swept([facts for facts, _ in jobs])
    return {key: jobs[0][0][key] for key in keys if len({facts[key] for facts, _ in jobs}) == 1}

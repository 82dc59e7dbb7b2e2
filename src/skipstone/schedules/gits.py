"""GITS (Chen et al. 2024, "On the trajectory regularity of diffusion-based sampling"): steps that suit one model.

A jump from one step to another costs as much as the model's trajectories bend in between. The costs of all jumps
between the times of a fine teacher are measured once (`skipstone.fitting.gits`). The cheapest way from noise to data in
a given number of jumps is then found exactly, by dynamic programming, for any number at once.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skipstone.process import ForwardProcess
from skipstone.schedules.steps import Karras, require_tau

TEACHER_STEPS = 60


@dataclass(frozen=True)
class Costs:
    """What the jumps between a teacher's times cost.

    times: from T−1 down to 0, and −1, which is clean data.
    jumps: float64 [M, M]: of the jump from times[i] to times[j]; infinite where j <= i.
    """

    times: tuple[int, ...]
    jumps: Tensor

    @classmethod
    def even(cls, process: ForwardProcess) -> "Costs":
        """Costs of no model: of trajectories that bend as much in one interval of the teacher as in the next."""
        times = teacher_times(process)
        index = torch.arange(len(times), dtype=torch.float64)
        length = index[None, :] - index[:, None]
        return cls(times, (length**2).where(length > 0, torch.inf))


def teacher_times(process: ForwardProcess) -> tuple[int, ...]:
    """The times between which there are jumps: Karras' spacing rounded to steps of the process, and clean data."""
    tau = min(TEACHER_STEPS, process.num_steps)
    visited = {round(t) for t in Karras(tau, process)(process.num_steps)}
    return (*sorted(visited, reverse=True), -1)


@dataclass(frozen=True)
class GITS:
    """The `tau` steps from which the jumps to the next, and at last to clean data, cost least. `tau` is a count, 1 … T.

    T−1 is visited. A tau beyond the teacher's times visits all of them, so NFE can be smaller than tau.

    costs: of the model, from `skipstone.fitting.gits.measure`.
    gamma: the cost of the k-th jump counts gamma^k times: above 1 the last jumps are held to be dearer.
    """

    name: ClassVar[str] = "gits"
    tau: int
    costs: Costs | None = None
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma < float("inf"):
            raise ValueError(f"schedule.gamma={self.gamma} is not allowed: gamma is a number above 0.")

    def __call__(self, num_steps: int) -> tuple[int, ...]:
        require_tau(self, "count", num_steps)
        if self.costs is None:
            raise ValueError("schedule=gits suits a model: give it costs=skipstone.fitting.gits.measure(model, …).")
        times = self.costs.times
        if times[0] != num_steps - 1:
            raise ValueError(
                f"these costs are of a process of {times[0] + 1} steps, not of {num_steps}: measure again."
            )
        path = cheapest(self.costs.jumps, min(self.tau, len(times) - 1), self.gamma)
        return tuple(times[i] for i in reversed(path[:-1]))


def cheapest(jumps: Tensor, count: int, gamma: float) -> list[int]:
    """The path of `count` jumps from the first place to the last for which Σ_k gamma^k cost of the k-th is least.

    jumps: float64 [M, M], as for `Costs`. Returns count + 1 places.
    """
    left = jumps[:, -1]  # what the way from each place costs, in one jump
    choices = []
    for _ in range(count - 1):
        left, choice = (jumps + gamma * left).min(dim=1)
        choices.append(choice)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return [*path, len(jumps) - 1]

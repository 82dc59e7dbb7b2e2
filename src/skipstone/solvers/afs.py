"""The analytical first step: at the process's last step the state is nearly all noise, so eps is the state itself."""

from dataclasses import dataclass, replace

from skipstone.checked import check_fields, checked
from skipstone.process import ForwardProcess
from skipstone.solvers.table import Solver, Steps, StepTable


@dataclass(frozen=True)
class AFS:
    """Another solver whose first row takes eps := x_t in place of an evaluation (Dockhorn et al. 2022).

    solver:           the other, such as AdamsBashforth(order=4).
    to_data, clip_x0: as for DDIM; None is the other's own.
    """

    solver: Solver
    to_data: bool | None = None
    clip_x0: bool | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "to_data", self.solver.to_data if self.to_data is None else self.to_data)
        object.__setattr__(self, "clip_x0", self.solver.clip_x0 if self.clip_x0 is None else self.clip_x0)

    @property
    def name(self) -> str:
        """The other's, and afs."""
        return f"{self.solver.name}_afs"

    @checked
    def table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from noise to data over the visited steps (ascending). Raises ValueError if it has one row."""
        table = replace(self.solver, to_data=self.to_data, clip_x0=self.clip_x0).table(process, timesteps)
        if table.nfe < 2:
            raise ValueError("the analytical first step leaves no evaluation: visit one more step, or leave it out.")
        evaluated = table.evaluated.clone()
        evaluated[0] = False
        return replace(table, evaluated=evaluated)

"""A table from a file, in the place of a solver."""

from dataclasses import dataclass
from pathlib import Path

from skipstone.checked import checked
from skipstone.process import ForwardProcess
from skipstone.solvers.portable import load_table
from skipstone.solvers.table import Steps, StepTable


@dataclass(frozen=True)
class Stored:
    """The table of a file that `save_table` wrote. It brings its own steps, so the schedule must list none.

    path:             of the file.
    to_data, clip_x0: of the table. They are there for whoever asks a solver for them, and must agree with the file.
    """

    path: str
    to_data: bool = True
    clip_x0: bool = False

    @property
    def name(self) -> str:
        """table_ and the file's name without its ending."""
        return f"table_{Path(self.path).stem}"

    @checked
    def table(self, process: ForwardProcess, timesteps: Steps = ()) -> StepTable:
        """The table of the file. Raises ValueError for steps, for a table of another process, and for no table."""
        if len(timesteps):
            raise ValueError(
                "solver=table brings its own steps: use schedule=custom schedule.timesteps=[] with it, and no tau."
            )
        try:
            table = load_table(self.path, process)
        except OSError as error:
            raise ValueError(
                f"solver.path={self.path} cannot be read ({error.strerror}): name a table's file."
            ) from None
        for key, own in (("to_data", bool(table.p[-1] == -1)), ("clip_x0", table.clip_x0)):
            if getattr(self, key) != own:
                raise ValueError(f"the table of {self.path} has {key}={str(own).lower()}: set solver.{key} to that.")
        return table

"""EDICT: two coupled DDIM states, of which each step is undone exactly and explicitly."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skipstone.checked import check_fields, checked
from skipstone.process import ForwardProcess
from skipstone.solvers.table import Path, Steps, StepTable, ascend, descend


@dataclass(frozen=True)
class EDICT:
    """EDICT (Wallace et al. 2023, Eq. 14 and 15). Two evaluations a step, order 1.

    With A = √ᾱ_p/√ᾱ_t and B = √(1−ᾱ_p) − A √(1−ᾱ_t), DDIM's step is A x + B eps, and a step from t to p is

        x⁺ = A x + B eps(y, t)                  y⁺ = A y + B eps(x⁺, t)
        x' = mix x⁺ + (1−mix) y⁺                y' = mix y⁺ + (1−mix) x'

    Both evaluations are at t. A row leaves its own state, which is y in the first row of a step and x⁺ in the second.
    That is enough, because x' = (mix² x⁺ + (1−mix) y') / (mix + (1−mix)²).

    Solved backwards it is the same arithmetic: what an `encode_table` has done to an image, a `return_table` undoes
    from the last two states (`engine.sample_pair`). On the way up, mixing is undone by a division by mix², so rounding
    grows by as much with every step: run it with dtype=torch.float64. In float32 an image comes back to 1e-2 at worst.

    mix:     the paper's p, above 0 and at most 1. At 1 the two states are not mixed, and drift apart.
    to_data: as for DDIM.
    clip_x0: must be false. The second evaluation of a step is at another time than its state, and gives no x0.
    """

    name: ClassVar[str] = "edict"
    needs_float64: ClassVar[bool] = True
    mix: float = 0.93
    to_data: bool = True
    clip_x0: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.mix <= 1:
            raise ValueError(f"solver.mix={self.mix!r} is not allowed: mix is a number above 0 and at most 1.")
        if self.clip_x0:
            raise ValueError("solver.clip_x0=true is not allowed with EDICT, whose rows have no x0: set it to false.")

    @checked
    def table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from noise, which both states start from, to data over the visited steps (ascending)."""
        down = descend(timesteps, process.num_steps, self.to_data)
        return self._down(process, torch.cat([down.f, down.p[-1:]]), from_noise=True)

    @checked
    def encode_table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table from data to noise. It starts on clean data if `to_data`, else at the first visited step."""
        up = ascend(timesteps, process.num_steps, self.to_data, self.clip_x0)
        A, B, signal, noise = _steps(process, up.p, up.f)
        p, q = self.mix, 1 - self.mix
        m = p + q**2
        # y = (y⁺ − B eps(x⁺))/A, with y⁺ = (y' − p q x⁺)/m
        first = _Rows(a=-p * q / (m * A), c=1 / (m * A), k=-B / A)
        first.a[0], first.c[0] = 1 / A[0], 0.0  # x⁺ and y⁺ are the image
        # x = (x⁺ − B eps(y))/A, and from it the next x⁺ = (m x − q y)/p²
        second = _Rows(a=torch.full_like(A, -q / p**2), c=m / (p**2 * A), k=-m / p**2 * B / A)
        second.a[-1], second.c[-1], second.k[-1] = 0.0, 1 / A[-1], -B[-1] / A[-1]
        path = _pairs(Path(up.f, up.p, up.p), Path(up.p, up.p, up.p))
        return _table(process, path, first, second, signal, noise)

    def return_table(self, process: ForwardProcess, timesteps: Steps) -> StepTable:
        """The table that undoes `encode_table`, from its last state but one, with its last state as what was left."""
        up = ascend(timesteps, process.num_steps, self.to_data, self.clip_x0)
        return self._down(process, torch.cat([up.f, up.p[-1:]]).flip(0), from_noise=False)

    def _down(self, process: ForwardProcess, levels: Tensor, from_noise: bool) -> StepTable:
        t, t_p = levels[:-1], levels[1:]
        A, B, signal, noise = _steps(process, t, t_p)
        p, q = self.mix, 1 - self.mix
        m = p + q**2
        # x⁺ = A x + B eps(y), with x = (p² x⁺ + q y)/m of the step before
        first = _Rows(a=A * q / m, c=A * p**2 / m, k=B.clone())
        first.a[0], first.c[0] = (A[0], 0.0) if from_noise else (0.0, A[0])  # what was left is x
        # y' = m y⁺ + p q x⁺, with y⁺ = A y + B eps(x⁺)
        second = _Rows(a=torch.full_like(A, p * q), c=m * A, k=m * B)
        path = _pairs(Path(t, t, t_p), Path(t_p, t, t_p))
        return _table(process, path, first, second, signal, noise)


@dataclass
class _Rows:
    """a state + k eps + c h, for each step: float64 [steps]."""

    a: Tensor
    c: Tensor
    k: Tensor


def _steps(process: ForwardProcess, t: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(A, B) of DDIM's steps from t to p, and √ᾱ_t and √(1−ᾱ_t)."""
    A = torch.exp(0.5 * (process.log_alpha_bar(p) - process.log_alpha_bar(t)))
    signal, noise = torch.sqrt(process.alpha_bar(t)), torch.sqrt(process.one_minus_alpha_bar(t))
    return A, torch.sqrt(process.one_minus_alpha_bar(p)) - A * noise, signal, noise


def _pairs(first: Path, second: Path) -> Path:
    return Path(*(torch.stack(columns, dim=1).flatten() for columns in zip(first, second, strict=True)))


def _table(
    process: ForwardProcess, path: Path, first: _Rows, second: _Rows, signal: Tensor, noise: Tensor
) -> StepTable:
    """Both rows of each step, with eps = (x − √ᾱ_t x0)/√(1−ᾱ_t); each leaves its own state."""
    a = torch.stack([rows.a + rows.k / noise for rows in (first, second)], dim=1).flatten()
    b = torch.stack([-rows.k * signal / noise for rows in (first, second)], dim=1).flatten()
    c = torch.stack([first.c, second.c], dim=1).flatten()
    return StepTable.build(process, path, a, b, None, c[:, None], torch.ones_like(a))

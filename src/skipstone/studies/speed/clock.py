"""How long things take: warmed up, synchronised with the device, in rounds that alternate between the contenders."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


class Budget:
    """Seconds that a benchmark may take altogether."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds of it, negative when it is overdrawn."""
        return self._end - time.monotonic()


@dataclass(frozen=True)
class Contender:
    """One way to do a piece of work.

    round: does it once and returns its seconds, or those of each of several equal parts.  images, evaluations, flop:
    what one of these parts amounts to.  warm_up: what is done first and counts only as `first_seconds`; it compiles.
    peer: another library's way, which must not end the measuring of ours when it fails.
    """

    name: str
    round: Callable[[], list[float]]
    images: int
    evaluations: float
    flop: float
    warm_up: Callable[[], Any]
    peer: bool = False


@dataclass
class Measured:
    """What a contender took: seconds of each part of each round, and of its warm-up."""

    contender: Contender
    first_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)
    rounds: int = 0
    last: float = 0.0  # seconds of the last round, whatever it returned

    @property
    def median(self) -> float:
        """Seconds of a part."""
        return statistics.median(self.seconds)


def alternate(contenders: Sequence[Contender], rounds: int, budget: Budget) -> tuple[list[Measured], list[str]]:
    """Warm up each, then let them take turns, so that all meet the same neighbours.

    Returns what was measured, and a sentence on each thing that was left out: a warm-up is not begun in less time
    than the longest so far took, nor a round in less than the contender's last one.
    """
    there: list[Measured] = []
    left_out: list[str] = []
    longest = 0.0
    for contender in contenders:
        if budget.left < longest:
            left_out.append(f"{contender.name}: {max(budget.left, 0):.0f} s are too few to warm it up")
            continue
        measured = Measured(contender)
        began = time.perf_counter()
        try:
            contender.warm_up()
        except Exception as error:
            if not contender.peer:
                raise
            left_out.append(f"{contender.name}: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
            continue
        measured.first_seconds = time.perf_counter() - began
        longest = max(longest, measured.first_seconds)
        there.append(measured)
    for _ in range(rounds):
        for measured in there:
            if measured.last < budget.left:
                began = time.perf_counter()
                measured.seconds += measured.contender.round()
                measured.last, measured.rounds = time.perf_counter() - began, measured.rounds + 1
    for measured in there:
        if measured.rounds < rounds:
            left_out.append(f"{measured.contender.name}: {rounds - measured.rounds} of {rounds} rounds did not fit")
    return [measured for measured in there if measured.seconds], left_out


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of a call and all the work that it leaves on the device."""
    synchronise(device)
    began = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - began


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(device: torch.device) -> tuple[float, str]:
    """FLOP/s of a matrix product, the ceiling of every network, and its name: bf16 with CUDA, float32 elsewhere."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    times = [seconds(lambda: a @ b, device) for _ in range(13)]
    return 2 * size**3 / statistics.median(times[3:]), f"{str(dtype).removeprefix('torch.')} product of {size}³"

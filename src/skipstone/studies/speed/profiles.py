"""Where the time goes: kernels by name with CUDA, operators elsewhere, as torch.profiler sees them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from skipstone.studies.speed import clock
from skipstone.studies.speed.report import Report

SHOWN = 15


class Kernel(NamedTuple):
    """All calls of one name: milliseconds together, how many, and their share of the time of all kernels."""

    name: str
    milliseconds: float
    calls: int
    share: float


def kernels(call: Callable[[], object], device: torch.device) -> list[Kernel]:
    """Of one call, the longest first; each one's own time, without that of those it called."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        clock.seconds(call, device)
    events = profiler.key_averages()
    if cuda:
        seen = [e for e in events if e.device_type == DeviceType.CUDA and not getattr(e, "is_user_annotation", False)]
        times = {(e.key, e.count): e.self_device_time_total for e in seen}
    else:
        times = {(e.key, e.count): e.self_cpu_time_total for e in events}
    total = sum(times.values()) or 1.0
    listed = [Kernel(name, time / 1e3, calls, time / total) for (name, calls), time in times.items()]
    return sorted(listed, key=lambda kernel: -kernel.milliseconds)


def add_to(report: Report, name: str, call: Callable[[], object]) -> None:
    """Profile a call that is warm, print its longest kernels and keep all of them."""
    found = kernels(call, report.device)
    report.content["profiles"][name] = [kernel._asdict() for kernel in found]
    print(f"\n{name}: {sum(kernel.milliseconds for kernel in found):.2f} ms of kernels")
    for kernel in found[:SHOWN]:
        print(f"{kernel.share:7.1%} {kernel.milliseconds:10.3f} ms {kernel.calls:7d} ×  {kernel.name[:80]}")
    report.write()

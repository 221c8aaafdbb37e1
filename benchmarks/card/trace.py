"""Where the time of some work goes: the profiler's operators with the most of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

TOP = 15


class Operator(NamedTuple):
    """One operator of a trace.

    Attributes:
        name: As the profiler has it.
        calls: How often it ran.
        milliseconds: Its own time on the device, without that of what it calls.
    """

    name: str
    calls: int
    milliseconds: float


def top_operators(work: Callable[[], object], device: torch.device) -> list[Operator]:
    """Profile one run of some work and return its operators, the longest first."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    work()
    with profile(activities=activities) as traced:
        work()
        if cuda:
            torch.cuda.synchronize(device)
    column = "self_device_time_total" if cuda else "self_cpu_time_total"
    found = [Operator(e.key, e.count, getattr(e, column) / 1e3) for e in traced.key_averages()]
    return sorted(found, key=lambda operator: -operator.milliseconds)[:TOP]

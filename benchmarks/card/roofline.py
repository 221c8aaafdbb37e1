"""What a device can do: the rates of one large product and one large copy, measured, and a figure's share of them.

The roofline model (Williams et al., "Roofline: An Insightful Visual Performance Model", CACM 2009): work of F FLOPs
that moves B bytes takes at least max(F / peak FLOP/s, B / bandwidth).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

ROUNDS = 5


@dataclass(frozen=True)
class Peak:
    """Measured limits of a device.

    Attributes:
        flops: FLOP/s of a square matrix product, by data type.
        bandwidth: Bytes/s of a copy, reads and writes counted.
    """

    flops: dict[torch.dtype, float]
    bandwidth: float

    def share(self, flops: float, moved: float, dtype: torch.dtype, seconds: float) -> float:
        """Return the share of the roofline that work reaches: its least time over the time it took.

        Args:
            flops: Floating-point operations of the work.
            moved: Bytes that it must read and write.
            dtype: Of its products.
            seconds: That it took.
        """
        return max(flops / self.flops[dtype], moved / self.bandwidth) / seconds


@cache
def peak(device: torch.device) -> Peak:
    """Measure a device's limits: once for each process."""
    size, elements = (8192, 2**28) if device.type == "cuda" else (512, 2**24)
    rates = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        one = torch.randn(size, size, device=device, dtype=dtype)
        rates[dtype] = 2 * size**3 / median_seconds(lambda one=one: one @ one, device)
    source = torch.empty(elements, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Peak(rates, 2 * elements / median_seconds(lambda: target.copy_(source), device))


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(work: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Return the median time of some work in seconds, after one round that warms up."""
    times = []
    for _ in range(rounds + 1):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def count_flops(work: Callable[[], object]) -> int:
    """Return the floating-point operations of some work, of its matrix products and attention."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def weight_bytes(parameters: list[Tensor]) -> int:
    """Return the bytes of weights, which each pass reads at least once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

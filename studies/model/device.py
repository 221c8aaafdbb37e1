"""Where tensors live and in which precision matrix products run: decided once, from the hardware, with no flag."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch

_full_precision = ContextVar("full_precision", default=False)


@cache
def device() -> torch.device:
    """The CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def fast_bf16() -> bool:
    """Whether bf16 matrix products have units of their own here: CUDA, or a CPU with AMX tiles.

    Elsewhere bf16 is emulated and slower than fp32 (docs/decisions.md).
    """
    if device().type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities.get("amx_bf16", False)


def autocast() -> AbstractContextManager[None]:
    """bf16 autocast where it is fast, otherwise a context that changes nothing."""
    return torch.autocast(device().type, torch.bfloat16, enabled=fast_bf16() and not _full_precision.get())


@contextmanager
def full_precision() -> Iterator[None]:
    """Within it `autocast` stays fp32: for figures that are published and vectors that others must reproduce."""
    token = _full_precision.set(True)
    try:
        yield
    finally:
        _full_precision.reset(token)


def cores() -> int:
    """How many cores this process may use: a scheduler may have given it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(workers: int, threads: int | None = None) -> None:
    """Divides the cores between worker processes; more threads than cores only get in each other's way.

    Args:
        workers: how many processes share this machine.
        threads: of this process, where that is known.
    """
    torch.set_num_threads(threads or max(1, cores() // workers))


def free_memory() -> int:
    """Bytes that this process may still take: of the GPU's memory, else of this machine's or container's.

    Elsewhere than on Linux, all of the machine's memory.
    """
    if device().type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([free, *_container_memory()])


def _container_memory() -> list[int]:
    """What is left of this container's limit, where it has one (cgroup v2, then v1)."""
    second = ("memory.max", "memory.current")
    first = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    for files in (second, first):
        try:
            limit, used = (int(Path("/sys/fs/cgroup", file).read_text()) for file in files)
            return [limit - used]
        except (OSError, ValueError):  # "max" is no number
            continue
    return []

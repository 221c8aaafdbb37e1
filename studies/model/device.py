"""The device of tensors and the precision of matrix products, chosen from the hardware; cores and free memory."""

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
    """Return the CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def fast_bf16() -> bool:
    """Return whether the hardware has units for bf16 matrix products: CUDA, or a CPU with AMX.

    Elsewhere bf16 is emulated and slower than fp32 (docs/decisions.md).
    """
    if device().type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities.get("amx_bf16", False)


def autocast() -> AbstractContextManager[None]:
    """Return bf16 autocast where it is fast, otherwise a context that changes nothing."""
    return torch.autocast(device().type, torch.bfloat16, enabled=fast_bf16() and not _full_precision.get())


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep `autocast` at fp32 within the block, for published metrics and vectors that must be reproducible."""
    token = _full_precision.set(True)
    try:
        yield
    finally:
        _full_precision.reset(token)


def cores() -> int:
    """Return the number of cores that this process may use; a scheduler may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(workers: int, threads: int | None = None) -> None:
    """Set the number of torch's threads so that all worker processes together have one per core.

    Args:
        workers: Number of worker processes on this machine.
        threads: Number of threads of this process, where it is given.
    """
    torch.set_num_threads(threads or max(1, cores() // workers))


def free_memory() -> int:
    """Return the bytes of free memory: of the GPU, else of the machine or container.

    Where the system is not Linux, return all of the machine's memory.
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
    """Return the bytes left of the container's limit, in a list; empty where it has none (cgroup v2, then v1)."""
    second = ("memory.max", "memory.current")
    first = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    for files in (second, first):
        try:
            limit, used = (int(Path("/sys/fs/cgroup", file).read_text()) for file in files)
            return [limit - used]
        except (OSError, ValueError):  # "max" is not a number
            continue
    return []

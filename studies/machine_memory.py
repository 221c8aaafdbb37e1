"""Memory of the machine or container: how much is left, and a limit for what a process reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from storage.errors import InputError

# Copies of a table that are held at a time while it is cleaned and joined.
_COPIES = 3


def available_memory() -> int:
    """Return the bytes of memory left of the machine or container.

    Where the system is not Linux, return all of the machine's memory.
    """
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


def refuse_beyond_memory(what: Path, size: int, available: int | None = None) -> None:
    """Refuse to hold more than the memory has room for.

    Args:
        what: The file whose contents they are.
        size: Bytes of its contents in memory.
        available: Bytes of memory left; measured if left out.

    Raises:
        InputError: There are more; the message says how much and what to do.
    """
    available = available_memory() if available is None else available
    if size > available:
        raise InputError(
            f"{what} needs more than {size / 2**30:,.1f} GiB of memory, of which {available / 2**30:,.1f} GiB are "
            "left: it may unpack to much more than its size on disk; give fewer rows or shorter cells, or use a "
            "machine with more memory"
        )


def memory_guard(what: Path, held: Callable[[], int]) -> Callable[[], None]:
    """Return a check to be called while a file is read; it raises InputError before the memory is full.

    A table is copied while it is cleaned and joined, so that reading may take a third of what is left.

    Args:
        what: The file.
        held: Returns the bytes that its reader holds.
    """
    available, before = available_memory(), held()
    return lambda: refuse_beyond_memory(what, _COPIES * (held() - before), available)

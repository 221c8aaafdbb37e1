"""Memory that runs out while a trial runs: recognised among other failures, and what is left to be divided."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from storage.errors import OutOfMemory

log = logging.getLogger(__name__)

# How torch says it in a plain RuntimeError: the CPU's allocator, and what calls CUDA around torch's own allocator.
_SAYINGS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


@contextmanager
def recognised(message: str) -> Iterator[None]:
    """Raises `OutOfMemory` for every way in which memory can run out within the block.

    Args:
        message: what ran out of memory, and what to do.

    Raises:
        OutOfMemory: the message, and the allocator's words.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        words = str(error).strip().partition("\n")[0] or type(error).__name__
        raise OutOfMemory(f"{message} ({words})") from error


def halved(episodes: int, shortage: str) -> int:
    """Half as many episodes at a time, after what the failed attempt held was given back.

    To be called when the failure is no longer being handled: its traceback keeps tensors alive.

    Raises:
        OutOfMemory: there was one at a time already.
    """
    if episodes == 1:
        raise OutOfMemory(
            f"{shortage} even with one episode at a time: lower protocol.train_queries, or train_candidates, "
            "trainable_layers and inner_steps in [search.space], or run fewer workers"
        )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    fewer = episodes // 2
    log.warning("%s with %d episodes at a time: again from the last checkpoint with %d", shortage, episodes, fewer)
    return fewer


def _is_shortage(error: Exception) -> bool:
    # Under torch.cuda, the name that torch before 2.5 has as well.
    known = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
    return known or any(saying in str(error) for saying in _SAYINGS)

"""Running out of memory while a trial runs: telling it from other failures, and halving the micro-batch."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from storage.errors import OutOfMemory

log = logging.getLogger(__name__)

# Messages of a plain RuntimeError: of the CPU's allocator, and of CUDA calls that bypass torch's own allocator.
_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


@contextmanager
def recognised(message: str) -> Iterator[None]:
    """Raise `OutOfMemory` wherever memory runs out within the block, whatever torch raises.

    Args:
        message: What ran out of memory, and what to do.

    Raises:
        OutOfMemory: The message, with the allocator's own.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise OutOfMemory(f"{message} ({first_line})") from error


def halved(episodes: int, shortage: str) -> int:
    """Return half as many episodes at a time, after freeing the memory of the failed attempt.

    Call it after the `except` block: within it, the traceback keeps tensors alive.

    Args:
        episodes: Episodes at a time of the failed attempt.
        shortage: The failure's message.

    Raises:
        OutOfMemory: It was one episode at a time already.
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
    log.warning("%s with %d episodes at a time: retrying from the last checkpoint with %d", shortage, episodes, fewer)
    return fewer


def _is_shortage(error: Exception) -> bool:
    # The name under torch.cuda also exists before torch 2.5.
    known = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
    return known or any(message in str(error) for message in _MESSAGES)

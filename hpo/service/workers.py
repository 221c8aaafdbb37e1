"""The threads that compute answers, each with one thread of torch.

Texts of all of them meet in the encoder's own thread, which has the others (`hpo/service/batcher.py`). What is left is
small: torch would start a team of threads for each of these, and gain nothing (docs/decisions.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from fastapi.responses import Response

P = TypeVar("P")
# Requests that are computed at a time; the others wait.
THREADS = 64


class Workers:
    """A pool of threads."""

    def __init__(self) -> None:
        # Of the calling thread alone, and of threads that have not asked torch yet.
        self._pool = ThreadPoolExecutor(THREADS, "request", torch.set_num_threads, (1,))

    async def answer(self, work: Callable[[P], Response], given: P) -> Response:
        """Return the answer to what a request holds."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, given)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

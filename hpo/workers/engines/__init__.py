"""Engines: where a search's workers are started; `hpo.workers.supervisor` keeps their number.

An engine is one file with one class, whose `start` begins a worker and returns its handle.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class EngineName(StrEnum):
    """Where a search's workers run: processes on this machine, a Ray cluster, or wherever the user starts them."""

    local = "local"
    ray = "ray"
    external = "external"


@dataclass(frozen=True)
class Ended:
    """How a worker ended.

    Attributes:
        error: What went wrong, in words; None where nothing did.
        lost: Whether it was killed or its machine is gone, so that another worker may take its place. An error of the
            worker's own would only happen again.
    """

    error: str | None = None
    lost: bool = False


class RunningWorker(Protocol):
    """The handle of a worker that an engine has started."""

    def ended(self) -> Ended | None:
        """Return how the worker ended; None while it runs."""

    def waiting(self) -> str | None:
        """Return why the worker waits for the database; None while it does not, or where that is not known."""

    def stop(self) -> None:
        """Ask the worker to requeue its trial and to end; may be called more than once."""

    def cancel_if_queued(self) -> None:
        """End the worker if it still waits for a machine; otherwise do nothing."""

    def kill(self) -> None:
        """End the worker at once."""


class Engine(Protocol):
    """Starts workers."""

    def start(self, number: int) -> RunningWorker:
        """Start the worker of that number, from 0; a number is started again when its worker was lost.

        Raises:
            ScenetuneError: No worker can be started.
        """

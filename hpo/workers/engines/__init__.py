"""Engines start a search's workers, each where it can; `hpo.workers.supervisor` keeps as many alive as were asked for.

An engine is one file with one class: `start` begins a worker and returns what stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class EngineName(StrEnum):
    """Where a search's workers run: processes here, a Ray cluster, or wherever somebody else starts them."""

    local = "local"
    ray = "ray"
    external = "external"


@dataclass(frozen=True)
class Ended:
    """How a worker ended.

    Attributes:
        error: what went wrong, in words; None where nothing did.
        lost: it was killed, or its machine is gone, so that another may take its place; an error of its own would only
            happen again.
    """

    error: str | None = None
    lost: bool = False


class RunningWorker(Protocol):
    """A worker that an engine has started."""

    def ended(self) -> Ended | None:
        """How it ended; None while it runs."""

    def stop(self) -> None:
        """Asks it to put its trial back and to end; may be asked more than once."""

    def dismiss(self) -> None:
        """Ends it where it has not begun yet, as one that still waits for a machine; leaves it alone otherwise."""

    def kill(self) -> None:
        """Ends it at once."""


class Engine(Protocol):
    """Starts workers."""

    def start(self, number: int) -> RunningWorker:
        """Starts the worker of that number, from 0; a number is started again when its worker was lost.

        Raises:
            ScenetuneError: none can be started.
        """

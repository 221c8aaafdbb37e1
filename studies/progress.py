"""Who is told how far a long step is: a terminal or a log file, by `hpo.status.console.Console`; or nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

# Told of (done, in all), in the step's own unit.
Progress = Callable[[int, int], None]


class ProgressReporter(Protocol):
    """Is told of long steps."""

    def note(self, text: str) -> None:
        """One line about what happens: for steps without a unit that time left could be told by."""

    def progress(self, label: str) -> AbstractContextManager[Progress]:
        """For the time of a step; what it gives is called with (done, in all)."""


class Silent:
    """Hears nothing."""

    def note(self, text: str) -> None:
        """Drops it."""

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """Drops what is reported."""
        yield lambda done, total: None


SILENT = Silent()

"""The interface through which long steps report their progress; `hpo.status.console.Console` shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

# Called with (done, in all), in the step's own unit.
Progress = Callable[[int, int], None]


class ProgressReporter(Protocol):
    """Receives the progress of long steps."""

    def note(self, text: str) -> None:
        """Show one line of text, for a step whose remaining time cannot be estimated."""

    def progress(self, label: str) -> AbstractContextManager[Progress]:
        """Return a context for the duration of a step; its value is called with (done, in all)."""


class SilentReporter:
    """Discards all progress."""

    def note(self, text: str) -> None:
        """Discard the text."""

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """Discard the progress of the step."""
        yield lambda done, total: None


SILENT = SilentReporter()

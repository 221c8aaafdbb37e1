"""A reporter of long steps that keeps what it is told."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from studies.progress import Progress


class Heard:
    """Keeps notes, and by label what steps have reported."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.reports: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def note(self, text: str) -> None:
        """Keeps it."""
        self.notes.append(text)

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """Keeps what is reported under the label."""
        yield lambda done, total: self.reports[label].append((done, total))

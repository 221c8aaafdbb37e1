"""What a person sees: results on stdout, progress on stderr, plain lines where stderr is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[int, int], None]
SECONDS_BETWEEN_LINES = 10.0


class Console:
    """The two streams of a command.

    Attributes:
        out: stdout, for results.
        err: stderr, for progress and notes.
    """

    def __init__(self) -> None:
        # Tables keep their full width in files and pipes instead of being cut at a guessed 80 columns.
        self.out = RichConsole(highlight=False, soft_wrap=False)
        if not self.out.is_terminal:
            self.out.width = max(self.out.width, 124)
        self.err = RichConsole(stderr=True, highlight=False)

    def note(self, text: str) -> None:
        """One line about what happens."""
        self.err.print(text, markup=False, soft_wrap=True)

    @property
    def live(self) -> bool:
        """Whether what stands on stderr can be drawn anew: in a terminal that can move its cursor."""
        return self.err.is_interactive

    @property
    def shown(self) -> bool:
        """Whether a person who has seen what was drawn on stderr sees stdout too, which need not repeat it."""
        return self.live and self.out.is_terminal

    @contextmanager
    def progress(self, label: str) -> Iterator[Report]:
        """Shows progress with time left; the block calls what it is given with (done, in all).

        Nothing is shown for work that never reports, so that cached steps stay silent.
        """
        if self.err.is_terminal:
            with self._bar(label) as report:
                yield report
        else:
            yield self._lines(label)

    @contextmanager
    def _bar(self, label: str) -> Iterator[Report]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.err) as progress:
            task = None

            def report(done: int, total: int) -> None:
                nonlocal task
                if task is None:
                    task = progress.add_task(label, total=total)
                progress.update(task, completed=done, total=total)

            yield report

    def _lines(self, label: str) -> Report:
        started = time.monotonic()
        first: tuple[float, int] | None = None
        last = started

        def report(done: int, total: int) -> None:
            nonlocal first, last
            now = time.monotonic()
            # The rate counts from the first report on: what came before it (loading, say) will not come again.
            first = first or (now, done)
            if done == total:
                self.note(f"{label}: {total}/{total}, took {duration(now - started)}")
            elif now - last >= SECONDS_BETWEEN_LINES and done > first[1]:
                last = now
                left = (now - first[0]) / (done - first[1]) * (total - done)
                self.note(f"{label}: {done}/{total}, about {duration(left)} left")

        return report


def day(seconds: int) -> str:
    """The UTC date of a moment."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 2 min 05 s, 3 h 20 min."""
    if seconds != seconds:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

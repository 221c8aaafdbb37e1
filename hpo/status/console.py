"""The two streams of a command: results on stdout, progress on stderr, as bars in a terminal and as lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.segment import Segment
from rich.text import Text

from studies.escaping import visible

Report = Callable[[int, int], None]
SECONDS_BETWEEN_LINES = 10.0
SECONDS_UNTIL_SHOWN = 3.0


class _Terminal(RichConsole):
    """A stream that shows control characters in what it is given, from whatever source, instead of obeying them."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments of what is shown; those that only control the terminal are rich's own."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


class Console:
    """The two streams of a command.

    Attributes:
        out: Stdout, for results.
        err: Stderr, for progress and notes.
    """

    def __init__(self) -> None:
        # Tables keep their full width in files and pipes instead of being cut at a guessed 80 columns.
        self.out = _Terminal(highlight=False, soft_wrap=False)
        if not self.out.is_terminal:
            self.out.width = max(self.out.width, 160)
        self.err = _Terminal(stderr=True, highlight=False)
        self._bars: Progress | None = None
        self._shown = 0

    def note(self, text: str) -> None:
        """Print one line on stderr."""
        self.err.print(text, markup=False, soft_wrap=True)

    @property
    def live(self) -> bool:
        """Return whether stderr is a terminal that can redraw what it shows."""
        return self.err.is_interactive

    @property
    def shown(self) -> bool:
        """Return whether stdout and stderr are the same terminal, so that stdout need not repeat what was drawn."""
        return self.live and self.out.is_terminal

    @contextmanager
    def progress(self, label: str) -> Iterator[Report]:
        """Show progress with the time left; the block reports by calling what is yielded with (done, in all).

        Nothing is shown for a step that never reports or that takes less than three seconds, so that cached steps
        stay silent. A step that ends before it is done, by an error, Ctrl-C or a decision, is shown as stopped. Steps
        may be nested.
        """
        step = _Step(time.monotonic())
        # A terminal that cannot move its cursor would show a bar only when all is over.
        with self._bar(label, step) if self.live else self._lines(label, step) as show:

            def report(done: int, total: int) -> None:
                step.reached(done, total, time.monotonic())
                if step.worth_showing:
                    show()

            yield report

    @contextmanager
    def _bar(self, label: str, step: _Step) -> Iterator[Callable[[], None]]:
        task: TaskID | None = None

        def show() -> None:
            nonlocal task
            if task is None:
                # One display for all: a step within a step is a line below it.
                self._bars = self._bars or Progress(*_columns(), console=self.err)
                task = self._bars.add_task(label, total=step.total, step=step)
                self._shown += 1
                self._bars.start()
            assert self._bars is not None
            self._bars.update(task, completed=step.done, total=step.total)

        try:
            yield show
        finally:
            step.ended = time.monotonic()
            if step.worth_showing:
                show()
                self._shown -= 1
                if self._shown == 0 and self._bars is not None:
                    self._bars.stop()
                    self._bars = None

    @contextmanager
    def _lines(self, label: str, step: _Step) -> Iterator[Callable[[], None]]:
        last = step.started

        def show() -> None:
            nonlocal last
            left = step.seconds_left()
            if step.done < step.total and step.now - last >= SECONDS_BETWEEN_LINES and left is not None:
                last = step.now
                self.note(f"{label}: {step.done}/{step.total}, {_about(left)}")

        try:
            yield show
        finally:
            step.ended = time.monotonic()
            if step.worth_showing:
                self.note(f"{label}: {step.outcome()}")


@dataclass
class _Step:
    """The progress of a step; all times are of one clock."""

    started: float
    done: int = 0
    total: int = 0
    now: float = 0.0
    ended: float | None = None
    first: tuple[float, int] | None = None

    def reached(self, done: int, total: int, now: float) -> None:
        # The rate counts from the first report on: work before it, such as loading, is done once.
        if self.first is None or done < self.done:
            self.first = now, done
        self.done, self.total, self.now = done, total, now

    @property
    def worth_showing(self) -> bool:
        return self.first is not None and (self.ended or self.now) - self.started >= SECONDS_UNTIL_SHOWN

    def seconds_left(self) -> float | None:
        """Return the seconds left at the rate so far; None while there is no rate."""
        if self.first is None or self.done <= self.first[1]:
            return None
        return (self.now - self.first[0]) / (self.done - self.first[1]) * (self.total - self.done)

    def outcome(self) -> str:
        """Return how the step ended, and after how long."""
        assert self.ended is not None
        took = duration(self.ended - self.started)
        if self.done < self.total:
            return f"stopped at {self.done}/{self.total} after {took}"
        return f"{self.total}/{self.total}, took {took}"


class _State(ProgressColumn):
    """A column with the time left; once the step has ended, with how long it took or that it was stopped."""

    def render(self, task: Task) -> Text:
        step: _Step = task.fields["step"]
        if step.ended is None:
            left = step.seconds_left()
            return Text("" if left is None else _about(left))
        took = duration(step.ended - step.started)
        return Text(f"took {took}" if step.done >= step.total else f"stopped after {took}")


def _columns() -> tuple[ProgressColumn, ...]:
    # A narrow bar leaves 80 columns room for the longest label, count and time.
    return TextColumn("{task.description}", markup=False), BarColumn(bar_width=12), MofNCompleteColumn(), _State()


def plain(text: str) -> Text:
    """Return text for a table as it is shown, which its column has to be wide enough for; markup is not obeyed."""
    return Text(visible(text))


def _about(left: float) -> str:
    return f"about {duration(left)} left"


def state_counts(states: Mapping[str, int]) -> str:
    """Return numbers of trials per state in words: 4 complete, 12 pruned."""
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def day(seconds: int) -> str:
    """Return the UTC date of a time in seconds."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def duration(seconds: float) -> str:
    """Return seconds in words: 8 s, 2 min 05 s, 3 h 20 min."""
    if seconds != seconds:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

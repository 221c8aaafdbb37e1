"""Shows a snapshot: as a live table in a terminal, as lines of a log, or as lines of JSON for scripts."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Group
from rich.live import Live
from rich.table import Table

from hpo.status.console import Console, duration, plain, state_counts
from hpo.status.snapshot import Observer, Snapshot
from hpo.status.trial_view import ENDED, TrialView

SECONDS_BETWEEN_LINES = 15.0
# Longer than a heartbeat, shorter than the time after which a lease ends.
SILENT_SECONDS = 25.0
ROWS, LATEST = 12, 4


def render(shot: Snapshot, *, rows: int | None = ROWS) -> Group:
    """Return the state of a study, in 80 columns.

    Args:
        shot: The study.
        rows: Most trials to show; None for all.
    """
    chosen = shot.trials if rows is None else choose(shot.trials, rows)
    best = shot.best
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("#", justify="right", no_wrap=True, min_width=3)
    table.add_column("state", no_wrap=True, min_width=8)
    table.add_column("learner", no_wrap=True, min_width=8)
    for step in shot.rungs:
        table.add_column(f"@{step}", justify="right", no_wrap=True, min_width=6)
    table.add_column("cost", justify="right", no_wrap=True, min_width=6)
    table.add_column("why", overflow="ellipsis", no_wrap=True, ratio=1)
    for view in sorted(chosen, key=_rank):
        recalls = [f"{value:.4f}" if value is not None else "" for value in view.recalls]
        style = "bold" if best is not None and view.number == best.number else None
        cells = [str(view.number), view.state, view.learner, *recalls, f"{view.cost_seconds:.0f} s", _why(view)]
        table.add_row(*map(plain, cells), style=style)
    if hidden := len(shot.trials) - len(chosen):
        table.caption, table.caption_justify = f"and {hidden} more {'trial' if hidden == 1 else 'trials'}", "left"
    return Group(*map(plain, heading(shot)), table)


def overview(shots: Sequence[Snapshot]) -> Table:
    """Return a table with a line for each study."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in ("study", "trials", "best", "learner"):
        table.add_column(column, justify="right" if column in ("trials", "best") else "left", no_wrap=True)
    table.add_column("now", overflow="ellipsis", no_wrap=True, ratio=1)
    for shot in shots:
        best, running = shot.best, f"{shot.running} running" if shot.running else ""
        found = [f"{best.recall:.4f}", best.learner] if best else ["", ""]
        now = f"{running}{_ending(shot)}".removeprefix("; ") or "no trial yet"
        table.add_row(*map(plain, [shot.name, f"{shot.spent}/{shot.budget}", *found, now]))
    return table


def heading(shot: Snapshot) -> list[str]:
    """Return the lines on the study as a whole: its state, best trial, budget, pace and students."""
    counts = state_counts(shot.states) if shot.begun else "no trial yet"
    lines = [f"{shot.name}: {counts}{_ending(shot)}"]
    if best := shot.best:
        lines.append(f"best: {shot.metric} {best.recall:.4f} (#{best.number}, {best.learner})")
    lines.append(f"budget: {', '.join(_budgets(shot))}")
    pace = [f"{shot.trials_per_hour:.0f} trials/h"] if shot.trials_per_hour else []
    if shot.cost_seconds:
        saved = 1 - shot.cost_seconds / shot.unpruned_seconds
        pace.append(f"{duration(shot.cost_seconds)} of work" + (f", {saved:.0%} saved by pruning" if saved > 0 else ""))
    lines += [f"pace: {', '.join(pace)}"] if pace else []
    if students := shot.students:
        ended = state_counts(students.states)
        progress = "" if students.progress is None else f", {students.progress:.0%} trained"
        scored = f"; scored on its test split: hpo report {shot.name}" if students.evaluated else ""
        lines.append(
            f"students: {sum(students.states.values())} of {students.budget} trials ({ended}{progress}){scored}"
        )
    return lines


def choose(trials: Sequence[TrialView], rows: int) -> list[TrialView]:
    """Return the trials for so many rows: running ones, those that ended last, the rest by progress and recall."""
    running = [view for view in trials if view.state == "running"]
    ended = [view for view in trials if view.state in ENDED]
    latest = sorted(ended, key=lambda view: -view.number)[: min(LATEST, max(0, rows - len(running)))]
    first = [*sorted(running, key=_rank), *latest]
    shown = {view.number for view in first}
    return [*first, *sorted((view for view in trials if view.number not in shown), key=_rank)][:rows]


def line(shot: Snapshot) -> str:
    """Return the state of a study as one line of a log."""
    counts = state_counts(shot.states) if shot.begun else "workers starting"
    best = shot.best
    lead = f"; best {shot.metric} {best.recall:.4f} (trial {best.number}, {best.learner})" if best else ""
    pace = f"; {shot.trials_per_hour:.0f} trials/h" if shot.trials_per_hour else ""
    return f"search: {', '.join(_budgets(shot))} ({counts}){lead}{pace}{_ending(shot)}"


def event(view: TrialView, shot: Snapshot) -> str:
    """Return a log's line on a trial that has ended."""
    reached = "" if view.recall is None else f"; {shot.metric} {view.recall:.4f}"
    leads = shot.best is not None and shot.best.number == view.number
    why = ", the best so far" if leads else "" if view.state == "complete" else f"; {_why(view)}"
    return f"trial {view.number} ({view.learner or 'no learner yet'}) {view.state}{reached}{why}"


class LiveTable:
    """A running search on stderr: a redrawn table in a terminal; in a log, its trials as they end and its state.

    Args:
        observer: Of the study.
        console: Where to.
    """

    def __init__(self, observer: Observer, console: Console) -> None:
        self._observer, self._console = observer, console
        self._live = Live(console=console.err, auto_refresh=False) if console.live else None
        self._ended: set[tuple[int, str]] | None = None
        self._last_line = 0.0
        self._last_text = ""
        self._waiting = ""

    def __enter__(self) -> LiveTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def report_waiting(self, reasons: Counter[str]) -> None:
        """Show from now on why workers wait for the database; nothing when none does.

        Args:
            reasons: Number of workers by reason.
        """
        self._waiting = "; ".join(
            f"{count} {'worker waits' if count == 1 else 'workers wait'}: {reason}" for reason, count in reasons.items()
        )

    def refresh(self) -> Snapshot:
        """Read the study, show it, and return what was read."""
        shot = self._observer.read()
        if self._live is None:
            self._log(shot)
        else:
            # The heading, the table's own and its caption take their lines.
            waiting = self._console.err.render_lines(plain(self._waiting)) if self._waiting else []
            free = self._console.err.height - len(heading(shot)) - len(waiting) - 3
            table = render(shot, rows=max(1, min(ROWS, free)))
            self._live.update(Group(table, plain(self._waiting)) if waiting else table, refresh=True)
        return shot

    def _log(self, shot: Snapshot) -> None:
        ended = {(view.number, view.state): view for view in shot.trials if view.state in ENDED}
        if self._ended is not None:
            for key in sorted(ended.keys() - self._ended):
                self._console.note(event(ended[key], shot))
        self._ended = set(ended)
        text = line(shot) + (f"; {self._waiting}" if self._waiting else "")
        due = time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or shot.finished
        if due and text != self._last_text:
            self._last_line, self._last_text = time.monotonic(), text
            self._console.note(text)


class _Display(Protocol):
    def refresh(self) -> Snapshot: ...


class JsonLines:
    """A study as a line of JSON whenever its trials or budgets have changed.

    Args:
        observer: Of the study.
        write: Takes each line.
    """

    def __init__(self, observer: Observer, write: Callable[[str], object]) -> None:
        self._observer, self._write = observer, write
        self._last: object = None

    def refresh(self) -> Snapshot:
        """Read the study, write a line if anything changed, and return what was read."""
        shot = self._observer.read()
        # Without times, which change with every reading.
        state = (shot.ended_by, shot.stopping, shot.students, [_without_silence(view) for view in shot.trials])
        if state != self._last:
            self._last = state
            self._write(json.dumps(shot.to_json()))
        return shot


def follow(display: _Display, seconds: float = 1.0) -> None:
    """Refresh until the search has ended."""
    while not display.refresh().finished:
        time.sleep(seconds)


def _ending(shot: Snapshot) -> str:
    """Return the time left, or why the search has ended or stopped."""
    if shot.finished:
        return f"; ended: {shot.ended_by}"
    if shot.stopping:
        return "; stopping" if shot.running else f"; stopped, hpo resume {shot.name} resumes it"
    if shot.seconds_left is None or not shot.trials:
        return ""
    return f"; about {duration(shot.seconds_left)} left" if shot.running else "; nothing runs now"


def _budgets(shot: Snapshot) -> list[str]:
    used = [f"{shot.spent} of {shot.budget} trials"]
    if shot.cost_limit_seconds is not None:
        used.append(f"{duration(shot.cost_seconds)} of {duration(shot.cost_limit_seconds)} of cost")
    if shot.seconds_to_deadline is not None and not shot.finished:
        left = shot.seconds_to_deadline
        used.append(f"{duration(left)} to the deadline" if left > 0 else "the time is over")
    if shot.target is not None:
        used.append(f"target {shot.target:g}")
    if shot.patience is not None:
        used.append(f"{shot.without_progress} of {shot.patience} without progress")
    return used


def _why(view: TrialView) -> str:
    if view.state != "running":
        # The value has a column of its own.
        return re.sub(r"^[\w@ ]*recall\S* \S+ (?=ranks|at rung)", "", view.reason)
    if view.silent_seconds is not None and view.silent_seconds > SILENT_SECONDS:
        return f"its worker is silent for {duration(view.silent_seconds)}"
    return "" if view.progress is None else f"{view.progress:.0%} trained"


def _rank(view: TrialView) -> tuple[bool, int, float, int]:
    """Return the key that sorts running trials first, then by rungs reached, then by recall."""
    reached = sum(value is not None for value in view.recalls)
    return view.state != "running", -reached, -(view.recall or 0.0), view.number


def _without_silence(view: TrialView) -> tuple[object, ...]:
    return (view.number, view.state, view.learner, view.recalls, view.progress, view.reason)

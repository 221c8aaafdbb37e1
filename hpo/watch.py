"""What a study looks like right now: one snapshot from the database, shown as a table or as JSON."""

from __future__ import annotations

import math
import re
import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table

from hpo.console import Console, duration
from storage.postgres import Database
from studies.spec import StudySpec

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SECONDS_BETWEEN_LINES = 15.0


@dataclass(frozen=True)
class TrialView:
    """One trial as the table shows it.

    Attributes:
        number, state, learner: as Optuna has them, but that what has begun and waits is paused; learner is "" until
            suggested.
        recalls: validation recall at each rung; None where not reached (or not finite).
        cost_seconds: measured training and evaluation time.
        reason: the pruner's words, or the error.
        params: the configuration.
        story: number of the first trial of its story, which its rung results go by.
        spared: it was kept to measure false prunes where its rank would have stopped it.
    """

    number: int
    state: str
    learner: str
    recalls: tuple[float | None, ...]
    cost_seconds: float
    reason: str
    params: dict[str, Any]
    story: int
    spared: bool


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment.

    Attributes:
        name: the study.
        budget: trials in all.
        spent: trials that count against the budget.
        ended_by: why no further trial may start: which budget is spent; None where one may.
        states: number of trials per state, in lower case.
        rungs: meta-updates at each rung.
        trials: the last trial of each story: a retry or continuation stands for what it goes on with.
        seconds_left: estimate; None while nothing has finished.
        cost_seconds: measured cost of all trials.
        unpruned_seconds: what they would have cost without pruning, each pruned trial extrapolated at its own rate.
    """

    name: str
    budget: int
    spent: int
    ended_by: str | None
    states: dict[str, int]
    rungs: tuple[int, ...]
    trials: tuple[TrialView, ...]
    seconds_left: float | None
    cost_seconds: float
    unpruned_seconds: float

    @property
    def spared(self) -> list[TrialView]:
        """The finished trials that were kept to measure false prunes where their rank would have stopped them."""
        return [trial for trial in self.trials if trial.spared and trial.state == "complete"]

    def false_prunes(self, best: int) -> list[TrialView]:
        """Those of the spared trials that ended among the best so many finished ones: pruning would have lost them."""
        finished = sorted((t for t in self.trials if t.state == "complete"), key=lambda t: (-_last(t), t.number))
        return [trial for trial in finished[:best] if trial.spared]

    @property
    def finished(self) -> bool:
        """Whether the budget is spent and nothing runs; what waits then will never run."""
        return self.ended_by is not None and not self.running

    @property
    def running(self) -> int:
        """How many trials run."""
        return self.states.get("running", 0)

    @property
    def reached(self) -> int:
        """How far the search has come: rungs reached and trials ended."""
        ended = sum(trial.state not in ("running", "waiting", "paused") for trial in self.trials)
        return ended + sum(recall is not None for trial in self.trials for recall in trial.recalls)

    @property
    def best(self) -> TrialView | None:
        """The finished trial with the highest recall at the last rung."""
        finished = [t for t in self.trials if t.state == "complete" and t.recalls and t.recalls[-1] is not None]
        return max(finished, key=lambda t: (t.recalls[-1] or 0.0, -t.number), default=None)

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        best = self.best
        return asdict(self) | {"finished": self.finished, "best": asdict(best) if best else None}


def snapshot(database: Database, spec: StudySpec) -> Snapshot:
    """Reads a registered study's state."""
    from hpo.trials import open_study

    return summarise(spec, open_study(database.storage, spec.name).get_trials(deepcopy=False))


def summarise(spec: StudySpec, trials: list[FrozenTrial]) -> Snapshot:
    """The snapshot of a list of trials."""
    from hpo.lineage import cost, counts, stories
    from hpo.search import search_budget

    known = stories(trials)
    spent = sum(map(counts, known.values()))
    views = tuple(_view(story[-1], spec.pruner.rungs) for story in known.values())
    states: dict[str, int] = {}
    for view in views:
        states[view.state] = states.get(view.state, 0) + 1
    rungs = tuple(spec.pruner.rungs)
    return Snapshot(
        name=spec.name,
        budget=spec.search.trials,
        spent=spent,
        ended_by=search_budget(spec).spent(trials),
        states=states,
        rungs=rungs,
        trials=views,
        seconds_left=_seconds_left(spec.search.trials - spent, trials),
        cost_seconds=sum(map(cost, known.values())),
        unpruned_seconds=sum(_unpruned(view, rungs) for view in views),
    )


def render(shot: Snapshot, *, rows: int = 12) -> Table:
    """A table of at most `rows` trials: the running ones, then the best, then the rest; 80 columns suffice."""
    done = shot.spent - shot.states.get("running", 0)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(shot.states.items())) or "no trial yet"
    left = "" if shot.finished else f"; about {duration(shot.seconds_left)} left" if shot.seconds_left else ""
    best = shot.best
    lead = f"; best {best.recalls[-1]:.4f} (#{best.number})" if best else ""
    title = f"{shot.name}: {done} of {shot.budget} trials done ({counts}){lead}{left}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    table.add_column("#", justify="right", no_wrap=True, min_width=3)
    table.add_column("state", no_wrap=True, min_width=8)
    table.add_column("learner", no_wrap=True, min_width=8)
    for step in shot.rungs:
        table.add_column(f"@{step}", justify="right", no_wrap=True, min_width=6)
    table.add_column("cost", justify="right", no_wrap=True, min_width=6)
    table.add_column("why", overflow="ellipsis", no_wrap=True, ratio=1)
    for view in sorted(shot.trials, key=_order)[:rows]:
        recalls = [f"{value:.4f}" if value is not None else "" for value in view.recalls]
        style = "bold" if best is not None and view.number == best.number else None
        why = re.sub(r"^recall \S+ ", "", view.reason)  # the value has a column of its own
        cells = [str(view.number), view.state, view.learner, *recalls, f"{view.cost_seconds:.0f} s", why]
        table.add_row(*cells, style=style)
    if (hidden := len(shot.trials) - rows) > 0:
        table.caption = f"and {hidden} more trials"
    return table


class LiveTable:
    """The table of a running search on stderr: redrawn in a terminal, now and then one line in a log file."""

    def __init__(self, database: Database, spec: StudySpec, console: Console) -> None:
        self._database, self._spec, self._console = database, spec, console
        self._live = Live(console=console.err, auto_refresh=False) if console.err.is_terminal else None
        self._last_line = 0.0
        self._last_text = ""

    def __enter__(self) -> LiveTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def refresh(self) -> Snapshot:
        """Reads the study, shows it, and returns what was read."""
        shot = snapshot(self._database, self._spec)
        if self._live is not None:
            self._live.update(render(shot), refresh=True)
            return shot
        text = _line(shot)
        due = time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or shot.finished
        if due and text != self._last_text:
            self._last_line, self._last_text = time.monotonic(), text
            self._console.note(text)
        return shot


def _line(shot: Snapshot) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in sorted(shot.states.items())) or "workers starting"
    best = shot.best
    lead = f"; best recall {best.recalls[-1]:.4f} (trial {best.number}, {best.learner})" if best else ""
    left = f"; about {duration(shot.seconds_left)} left" if shot.seconds_left and not shot.finished else ""
    return f"search: {shot.spent} of {shot.budget} trials ({counts}){lead}{left}"


def _last(view: TrialView) -> float:
    return next((recall for recall in reversed(view.recalls) if recall is not None), 0.0)


def _view(trial: FrozenTrial, rungs: list[int]) -> TrialView:
    from hpo.lineage import COST, ERROR, REASON, SPARED, origin

    values = [trial.intermediate_values.get(step) for step in rungs]
    return TrialView(
        number=trial.number,
        state="paused" if trial.state.name == "WAITING" and trial.params else trial.state.name.lower(),
        learner=str(trial.params.get("learner", "")),
        recalls=tuple(v if v is not None and math.isfinite(v) else None for v in values),
        cost_seconds=float(trial.user_attrs.get(COST, 0.0)),
        reason=str(trial.user_attrs.get(ERROR) or trial.user_attrs.get(REASON, "")),
        params=dict(trial.params),
        story=origin(trial),
        spared=SPARED in trial.user_attrs,
    )


def _order(view: TrialView) -> tuple[bool, int, float]:
    reached = [value for value in view.recalls if value is not None]
    return view.state != "running", -len(reached), -(reached[-1] if reached else 0.0)


def _unpruned(view: TrialView, rungs: tuple[int, ...]) -> float:
    reached = max((step for step, value in zip(rungs, view.recalls, strict=True) if value is not None), default=None)
    if view.state != "pruned" or reached is None:
        return view.cost_seconds
    return view.cost_seconds * rungs[-1] / reached


def _seconds_left(waiting: int, trials: list[FrozenTrial]) -> float | None:
    """Wall-clock at the rate so far, of so many trials that have not begun and of those that run."""
    ended = [t for t in trials if t.state.name in ("COMPLETE", "PRUNED") and t.datetime_complete]
    running = [t for t in trials if t.state.name == "RUNNING"]
    if not ended:
        return None
    mean = sum(t.duration.total_seconds() for t in ended if t.duration) / len(ended)
    return mean * (max(0, waiting) + 0.5 * len(running)) / max(1, len(running))

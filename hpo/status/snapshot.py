"""The state of a study: trials, budgets, pace and students, read from the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from optuna import Study
from optuna.trial import FrozenTrial

from hpo.ownership import TrialsMissing, distillation_of, load_record, search_of
from hpo.pruning.rung_history import RungHistory
from hpo.results.students import students_wanted
from hpo.search.loop import ended_by, search_budget
from hpo.search.pruner import recorded_history
from hpo.search.trial_chains import chains, cost, spends_budget
from hpo.stages import EVALUATION
from hpo.status.pace import mean_seconds, seconds_of_trials
from hpo.status.trial_view import TrialView, unpruned_seconds, view_of
from storage.database.control import Control, ControlState
from storage.database.leases import Lease, Leases
from storage.database.postgres import Database
from storage.database.records import Records
from studies.config.spec import StudySpec


@dataclass(frozen=True)
class Students:
    """The state of a study's distillation.

    Attributes:
        budget: Trials in all.
        states: Number of trials per state, in lower case.
        progress: How much of the running trial is done, from 0 to 1; None while unknown.
        evaluated: Whether the test scenes were scored.
    """

    budget: int
    states: dict[str, int]
    progress: float | None
    evaluated: bool


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment.

    Attributes:
        name: The study.
        metric: Name of the recalls.
        budget: Trials in all.
        spent: Trials that count against the budget.
        cost_limit_seconds: Budget of measured cost; None where there is none, as for the next three.
        seconds_to_deadline: Of the launch, by the server's clock; negative when it is over.
        target: Recall that is good enough.
        patience: Trials that may end without a better one.
        without_progress: Trials that have ended since the best one began.
        ended_by: Why no trial may start or resume: which budget is spent; None where one may.
        stopping: Whether `hpo stop` holds.
        states: Number of trials per state, in lower case.
        rungs: Resource at each rung.
        trials: The last trial of each chain.
        trials_per_hour: At the time that trials took so far, with as many workers as run; None while unknown.
        seconds_left: Estimate; None while nothing has finished.
        cost_seconds: Measured cost of all trials.
        unpruned_seconds: Their cost without pruning, each pruned trial extrapolated at its own rate.
        students: Of the distillation; None before there is one.
    """

    name: str
    metric: str
    budget: int
    spent: int
    cost_limit_seconds: float | None
    seconds_to_deadline: float | None
    target: float | None
    patience: int | None
    without_progress: int
    ended_by: str | None
    stopping: bool
    states: dict[str, int]
    rungs: tuple[int, ...]
    trials: tuple[TrialView, ...]
    trials_per_hour: float | None
    seconds_left: float | None
    cost_seconds: float
    unpruned_seconds: float
    students: Students | None = None

    @property
    def control_group(self) -> list[TrialView]:
        """Return the finished trials of the no-prune control group."""
        return [trial for trial in self.trials if trial.control_group and trial.state == "complete"]

    def false_prunes(self, best: int) -> list[TrialView]:
        """Return trials of the control group among the best so many: pruning would have lost them."""
        finished = sorted(
            (t for t in self.trials if t.state == "complete"), key=lambda t: (-(t.recall or 0.0), t.number)
        )
        return [trial for trial in finished[:best] if trial.control_group]

    @property
    def finished(self) -> bool:
        """Return whether the search has ended: no trial runs, and none may start or resume."""
        return self.ended_by is not None and not self.running

    @property
    def begun(self) -> bool:
        """Return whether any trial has begun."""
        return any(state != "waiting" for state in self.states)

    @property
    def running(self) -> int:
        """Return how many trials run."""
        return self.states.get("running", 0)

    @property
    def reached(self) -> int:
        """Return a measure of progress: rungs reached and trials ended."""
        ended = sum(trial.state not in ("running", "waiting", "paused") for trial in self.trials)
        return ended + sum(recall is not None for trial in self.trials for recall in trial.recalls)

    @property
    def best(self) -> TrialView | None:
        """Return the finished trial with the highest recall at the last rung."""
        finished = [t for t in self.trials if t.state == "complete" and t.recalls and t.recalls[-1] is not None]
        return max(finished, key=lambda t: (t.recalls[-1] or 0.0, -t.number), default=None)

    def to_json(self) -> dict[str, object]:
        """Return the snapshot as values of JSON, for scripts."""
        best = self.best
        return asdict(self) | {"finished": self.finished, "best": asdict(best) if best else None}


class Observer:
    """Reads a registered study again and again, each time only its new trials.

    Args:
        database: Where the study lives.
        spec: The study.
    """

    def __init__(self, database: Database, spec: StudySpec) -> None:
        self._database, self._spec = database, spec
        record = load_record(database, spec.name)
        self._study, self._distillation = search_of(record, database).open(), distillation_of(record, database)
        self._leases, self._control = Leases(database.engine, spec.name), Control(database.engine, spec.name)
        self._students: Study | None = None

    def read(self) -> Snapshot:
        """Return the study as it is now."""
        trials = self._study.get_trials(deepcopy=False)
        measured = partial(recorded_history, Records(self._database.engine), self._spec)
        shot = summarise(self._spec, trials, self._leases.all(), self._control.state(), measured)
        return replace(shot, students=self._distilled()) if shot.finished else shot

    def _distilled(self) -> Students | None:
        try:
            self._students = self._students or self._distillation.open()
        except TrialsMissing:
            return None
        trials = self._students.get_trials(deepcopy=False)
        states = [trial.state.name.lower() for trial in trials]
        progresses = [lease.progress for lease in Leases(self._database.engine, self._distillation.name).all().values()]
        return Students(
            budget=students_wanted(self._spec.distill, trials),
            states={state: states.count(state) for state in set(states)},
            progress=next((progress for progress in progresses if progress is not None), None),
            evaluated=Records(self._database.engine).stage_result(self._spec.name, EVALUATION) is not None,
        )


def snapshot(database: Database, spec: StudySpec) -> Snapshot:
    """Read a registered study once."""
    return Observer(database, spec).read()


def summarise(
    spec: StudySpec,
    trials: Sequence[FrozenTrial],
    leases: Mapping[int, Lease] | None = None,
    orders: ControlState | None = None,
    history: Callable[[], RungHistory] | None = None,
) -> Snapshot:
    """Return the snapshot of a list of trials.

    Args:
        spec: The study.
        trials: All of them.
        leases: Of the running ones, by number.
        orders: To the workers.
        history: As for `ended_by`.
    """
    known, limits, orders = chains(trials), search_budget(spec), orders or ControlState()
    spent = sum(map(spends_budget, known.values()))
    rungs = tuple(spec.pruner.rungs)
    views = tuple(view_of(chain, rungs, leases or {}) for chain in known.values())
    states: dict[str, int] = {}
    for view in views:
        states[view.state] = states.get(view.state, 0) + 1
    costs = sum(map(cost, known.values()))
    mean, running = mean_seconds(views), states.get("running", 0)
    shot = Snapshot(
        name=spec.name,
        metric=spec.metric,
        budget=spec.search.trials,
        spent=spent,
        cost_limit_seconds=limits.cost_seconds,
        seconds_to_deadline=orders.seconds_left,
        target=limits.target,
        patience=limits.patience,
        without_progress=limits.without_progress(trials),
        ended_by=ended_by(spec, trials, history),
        stopping=orders.stop is not None,
        states=states,
        rungs=rungs,
        trials=views,
        trials_per_hour=3600 * running / mean if mean and running else None,
        seconds_left=None,
        cost_seconds=costs,
        unpruned_seconds=sum(unpruned_seconds(view, rungs) for view in views),
    )
    return replace(shot, seconds_left=_seconds_left(shot, mean, spec.finalist_count()))


def _seconds_left(shot: Snapshot, mean: float, finalists: int) -> float | None:
    """Return the seconds until the first budget is spent, with as many workers as run now; None while unknown."""
    if not mean:
        return None
    limits = [seconds_of_trials(shot.trials, shot.rungs, max(0, shot.budget - shot.spent), finalists)]
    if shot.cost_limit_seconds is not None:
        taken = sum(view.wall_seconds for view in shot.trials) / shot.cost_seconds if shot.cost_seconds else 1.0
        limits.append((shot.cost_limit_seconds - shot.cost_seconds) * taken / max(1, shot.running))
    if shot.seconds_to_deadline is not None:
        limits.append(shot.seconds_to_deadline)
    return max(0.0, min(limits))

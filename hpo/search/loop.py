"""One study's search as a worker sees it: the budget, the objective, the pruner's decisions; and who won."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.search.asha import Decision, Promotion, RungHistory, completion, promotion
from hpo.search.budget import Budget
from hpo.search.pruner import RecallPruner, RecordedHistory
from hpo.search.space import make_sampler, suggest
from hpo.search.trial_chains import (
    CONTROL_GROUP,
    FROM_RUNG,
    MICRO_BATCH_SIZE,
    chains,
    continuation,
    counts,
    origin,
    paused,
)
from hpo.search.trial_queue import TrialQueue
from hpo.search.trial_run import RungReporter, open_study, run_all, run_next
from storage.database.postgres import Database
from storage.database.records import Records, RungResult
from storage.errors import InputError
from storage.home import trial_folder
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import StudySpec

if TYPE_CHECKING:
    from studies.training.rungs import RungReport

    Train = Callable[[Hyperparameters, Path, Callable[[RungReport], None]], float]


class Search:
    """A study joined for work.

    Args:
        database: where the study lives.
        spec: the study.
        scenes: names of the validation scenes that recalls are measured on.
        train: trains and evaluates a configuration, as `studies.training.objective.run_trial` does on the study's data.

    Raises:
        InputError: the study holds recalls on other scenes.
    """

    def __init__(self, database: Database, spec: StudySpec, scenes: Collection[str], train: Train) -> None:

        self._records, self._spec, self._train = Records(database.engine), spec, train
        pruner, metric = spec.pruner, f"recall@{spec.protocol.k}"
        self._results = RecordedHistory(self._records, spec.name, len(pruner.rungs))
        self._results.read()
        self._results.check_scenes(frozenset(scenes))
        self._pruner = None
        if pruner.kind == "recall":
            self._pruner = RecallPruner(pruner.rungs, pruner.eta, pruner.keep, spec.search.seed, metric=metric)
        self.study = open_study(database.storage, spec.name, make_sampler(spec.search), self._pruner)
        self._storage = database.storage
        self._queue = TrialQueue(database, self.study, spec.name, spec.search.retries)
        self._budget = search_budget(spec)
        self._reporter = RungReporter(self._queue, database.storage, pruner.rungs[-1], self._pause_reason)

    def advance(self, progress: float) -> None:
        """Notes how much of the running trial is done, from 0 to 1, for those who watch."""
        self._queue.advance(progress)

    def run_next(self) -> TrialState | None:
        """Runs the next trial to its end; None when no further one may start, whatever the number of workers.

        Raises:
            KeyboardInterrupt: after the trial was put back.
        """
        return run_next(self._queue, self._budget, self.objective, self._promote)

    def run_all(self) -> Iterator[TrialState]:
        """Runs trials until the search has ended, and yields how each did; see `hpo.search.trial_run.run_all`."""
        return run_all(self._queue, self._budget, self.objective, self._promote)

    def objective(self, trial: optuna.Trial) -> float:
        """Train the trial's configuration, reporting each rung to Optuna, which may prune the trial there."""
        with self._storage.one_transaction():
            values = suggest(trial, self._spec.search)
        number = origin(trial._cached_frozen_trial)  # reading the trial again costs seven queries

        def report(reached: RungReport) -> None:
            attributes: dict[str, Any] = {}
            if reached.rung == 0:
                attributes["seconds_per_update"] = round(reached.seconds_per_update, 4)
            if reached.micro_batch_size is not None:
                attributes[MICRO_BATCH_SIZE] = reached.micro_batch_size
            self._reporter.report(
                trial,
                reached,
                # The nominal resource, which is the same for all trials at a rung.
                self._spec.pruner.rungs[reached.rung],
                chain=number,
                decide=lambda: self._decide(trial, number, reached.rung),
                record=lambda: self._record(number, reached),
                attributes=attributes,
            )

        return self._train(values, trial_folder(self._spec.name, number), report)

    def _record(self, number: int, reached: RungReport) -> None:
        """Record a rung's result in our tables.

        Raises:
            InputError: It is on other scenes than the study's. Nothing was written, since no worker could read it.
        """
        if reached.scene_recalls:
            self._results.check_scenes(frozenset(reached.scene_recalls))
        self._records.record_rung(
            RungResult(
                study=self._spec.name,
                trial=number,
                rung=reached.rung,
                step=reached.step,
                recall=reached.recall,
                scene_recalls=reached.scene_recalls,
                cost_seconds=reached.cost_seconds,
                seed=self._spec.search.seed,
            )
        )

    def _decide(self, trial: optuna.Trial, number: int, rung: int) -> Decision | None:
        """Return the pruner's decision on a rung that was recorded; None where there is none to make."""
        # A promoted trial was decided on at the rung that it resumes from.
        if self._pruner is None or rung <= trial._cached_frozen_trial.user_attrs.get(FROM_RUNG, -1):
            return None
        decision = self._pruner.decide(self._results.read(), number, rung)
        if decision.below_quota and not decision.prune:
            trial.set_user_attr(CONTROL_GROUP, rung)
        return decision

    def _pause_reason(self) -> str | None:
        """Return why a trial waits at the rung that it has reached; None where the search continues."""
        if self._queue.stop_requested():
            return "the study was stopped, or its time is over"
        if not self._budget.may_be_exhausted:
            return None
        return self._budget.exhausted(self.study.get_trials(deepcopy=False))

    def _promote(self, trials: Sequence[FrozenTrial]) -> bool:
        """Queues the stopped trial that goes on before anything new begins, if there is one: under the study's lock."""
        known = chains(trials)
        found = next_promotion(self._spec, known, self._results.read)
        if found is not None:
            self.study.add_trial(continuation(paused(known)[found.trial], found.rung, found.reason))
        return found is not None


def next_promotion(
    spec: StudySpec, known: Mapping[int, list[FrozenTrial]], history: Callable[[], RungHistory]
) -> Promotion | None:
    """The stopped trial that goes on before anything new begins, if there is one.

    Args:
        spec: the study.
        known: its trials, by chain.
        history: gives what every trial measured at every rung.
    """
    if spec.pruner.kind != "recall":
        return None
    stopped, measured = paused(known), history()
    found = promotion(measured, stopped, eta=spec.pruner.eta, metric=f"recall@{spec.protocol.k}")
    if found is None and sum(map(counts, known.values())) >= spec.search.trials:
        going = sum(chain[-1].state in (TrialState.COMPLETE, TrialState.RUNNING) for chain in known.values())
        found = completion(measured, stopped, finished=going, wanted=spec.finalist_count())
    return found


def ended_by(spec: StudySpec, trials: Sequence[FrozenTrial]) -> str | None:
    """Why nothing may begin or be taken up again any more; None where something may.

    Args:
        spec: the study.
        trials: all of its search; what they have reported says what each measured.
    """
    budget = search_budget(spec)

    def reported() -> RungHistory:
        history = RungHistory(len(spec.pruner.rungs))
        for first, chain in chains(trials).items():
            for rung, step in enumerate(spec.pruner.rungs):
                if (recall := chain[-1].intermediate_values.get(step)) is not None:
                    history.add(first, rung, recall)
        return history

    reason = budget.spent(trials)
    if reason is None or budget.exhausted(trials) is not None:
        return reason
    return None if next_promotion(spec, chains(trials), reported) else reason


def search_budget(spec: StudySpec) -> Budget:
    """What ends the study's search."""
    search, minutes = spec.search, spec.search.cost_minutes
    return Budget(search.trials, None if minutes is None else 60 * minutes, search.target_recall, search.patience)


def winners(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """The best `count` finished trials, best first.

    Raises:
        InputError: no trial has finished.
    """
    finished = ranked(study)
    if not finished:
        raise InputError(
            f"study {study.study_name!r} has no finished trial to take teachers from; "
            f"hpo status {study.study_name} shows why, hpo launch with more --trials goes on"
        )
    return finished[:count]


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """The finished trials, best first."""
    finished = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE and t.value is not None]
    return sorted(finished, key=lambda t: (-(t.value or 0.0), t.number))

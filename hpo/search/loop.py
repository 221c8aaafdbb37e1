"""The search loop of a worker: asks for trials within the budget, trains them, prunes or pauses them at rungs.

Also the rules that read a search's trials: which pruned trial is promoted, why the search has ended, its winners.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.ownership import owned_search
from hpo.pruning.rules import Decision, Promotion, completion
from hpo.pruning.rung_history import RungHistory
from hpo.reporting.task_words import words_for
from hpo.search.budget import Budget
from hpo.search.pruner import RecallPruner, RecordedHistory, rule_of
from hpo.search.space import make_sampler, suggest
from hpo.search.trial_chains import (
    CONTROL_GROUP,
    DEFAULT,
    FROM_RUNG,
    MICRO_BATCH_SIZE,
    chain_of,
    chains,
    continuation,
    pruned_trials,
    spends_budget,
)
from hpo.search.trial_queue import TrialQueue
from hpo.search.trial_run import RungReporter, run_all, run_next
from storage.database.postgres import Database
from storage.database.records import Records, RungResult
from storage.errors import InputError
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import StudySpec

# For type checkers alone: torch stays out of the processes that only read a search, such as `hpo status`.
if TYPE_CHECKING:
    from studies.training.rungs import RungReport

    Train = Callable[[Hyperparameters, Path, Callable[[RungReport], None]], float]


class Search:
    """A worker's search of one study.

    Args:
        database: Where the study lives.
        spec: The study.
        scenes: Names of the validation scenes that recalls are measured on.
        train: Trains and evaluates a configuration, as `studies.training.objective.run_trial` does on the study's data.

    Raises:
        InputError: The study holds recalls on other scenes.
    """

    def __init__(self, database: Database, spec: StudySpec, scenes: Collection[str], train: Train) -> None:
        self._records, self._spec, self._train = Records(database.engine), spec, train
        pruner, metric = spec.pruner, spec.metric
        scene = words_for(spec.task, spec.protocol.kind).scene
        self._results = RecordedHistory(self._records, spec.name, pruner.rungs, scene)
        self._results.read()
        for rung in range(len(pruner.rungs)):
            self._results.check_scenes(pruner.scenes_at(rung, scenes), rung)
        self._pruner = None
        if pruner.kind == "recall":
            self._pruner = RecallPruner(
                pruner.rungs,
                pruner.eta,
                pruner.keep,
                spec.search.seed,
                rule=pruner.rule,
                resumes=True,
                metric=metric,
            )
        self._owned = owned_search(database, spec.name)
        self.study = self._owned.open(sampler=make_sampler(spec.search), pruner=self._pruner)
        self._storage = database.storage
        self._queue = TrialQueue(database, self.study, spec.name, spec.search.retries)
        self._budget = search_budget(spec)
        self._reporter = RungReporter(self._queue, database.storage, pruner.rungs[-1], self._pause_reason)

    def report_progress(self, progress: float) -> None:
        """Note how much of the running trial is done, from 0 to 1; `hpo status` shows it."""
        self._queue.report_progress(progress)

    def run_next(self) -> TrialState | None:
        """Run the next trial to its end; return None when no further one may start, whatever the number of workers.

        Raises:
            KeyboardInterrupt: On Ctrl-C or SIGTERM, after the trial was requeued.
        """
        return run_next(self._queue, self._budget, self.objective, self._promote)

    def run_all(self) -> Iterator[TrialState]:
        """Run trials until the search has ended, and yield the state in which each ended."""
        return run_all(self._queue, self._budget, self.objective, self._promote)

    def objective(self, trial: optuna.Trial) -> float:
        """Train the trial's configuration, reporting each rung to Optuna, which may prune the trial there."""
        with self._storage.one_transaction():
            values = suggest(trial, self._spec.search)
        number = chain_of(trial._cached_frozen_trial)  # reading the trial again costs seven queries

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

        return self._train(values, self._owned.trial_folder(number), report)

    def _record(self, number: int, reached: RungReport) -> None:
        """Record a rung's result in our tables.

        Raises:
            InputError: It is on other scenes than the study's. Nothing was written, since no worker could read it.
        """
        if reached.scene_recalls:
            self._results.check_scenes(frozenset(reached.scene_recalls), reached.rung)
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
        attributes = trial._cached_frozen_trial.user_attrs
        # A promoted trial was decided on at the rung that it resumes from.
        if self._pruner is None or rung <= attributes.get(FROM_RUNG, -1):
            return None
        decision = self._pruner.decide(self._results.read(), number, rung, kept=DEFAULT in attributes)
        if decision.by_rule and not decision.prune:
            trial.set_user_attr(CONTROL_GROUP, rung)
        return decision

    def _pause_reason(self) -> str | None:
        """Return why a trial waits at the rung that it has reached; None where the search continues."""
        if self._queue.stop_requested():
            return "the study was stopped, or its deadline has passed"
        if not self._budget.may_be_exhausted:
            return None
        return self._budget.exhausted(self.study.get_trials(deepcopy=False))

    def _promote(self, trials: Sequence[FrozenTrial]) -> bool:
        """Queue the trial that is promoted next, if any; only while holding the study's lock."""
        known = chains(trials)
        found = next_promotion(self._spec, known, self._results.read)
        if found is not None:
            self.study.add_trial(continuation(pruned_trials(known)[found.trial], found.rung, found.reason))
        return found is not None


def next_promotion(
    spec: StudySpec, known: Mapping[int, list[FrozenTrial]], history: Callable[[], RungHistory]
) -> Promotion | None:
    """Return the pruned trial to promote before a new trial begins; None where there is none.

    Once all trials of the budget have begun, pruned trials are also promoted until enough finish for the finalists.

    Args:
        spec: The study.
        known: Its trials, by chain.
        history: Returns the recall of every trial at every rung.
    """
    if spec.pruner.kind != "recall":
        return None
    pruned, measured = pruned_trials(known), history()
    rule = rule_of(spec.pruner.rule, spec.pruner.eta, resumes=True)
    found = rule.promotion(measured, pruned, spec.metric)
    if found is None and sum(map(spends_budget, known.values())) >= spec.search.trials:
        finished = sum(chain[-1].state in (TrialState.COMPLETE, TrialState.RUNNING) for chain in known.values())
        found = completion(measured, pruned, finished=finished, wanted=spec.finalist_count())
    return found


def ended_by(
    spec: StudySpec, trials: Sequence[FrozenTrial], history: Callable[[], RungHistory] | None = None
) -> str | None:
    """Return why no trial may begin or be promoted any more; None where one may.

    Args:
        spec: The study.
        trials: All trials of its search.
        history: Returns what they reached, and at what cost, as the workers know it. Without it, the recalls that they
            reported are taken, at the cost of their steps.
    """
    budget = search_budget(spec)

    def reported() -> RungHistory:
        found = RungHistory(spec.pruner.rungs)
        for first, chain in chains(trials).items():
            for rung, step in enumerate(spec.pruner.rungs):
                if (recall := chain[-1].intermediate_values.get(step)) is not None:
                    found.add(first, rung, recall)
        return found

    reason = budget.spent(trials)
    if reason is None or budget.exhausted(trials) is not None:
        return reason
    return None if next_promotion(spec, chains(trials), history or reported) else reason


def search_budget(spec: StudySpec) -> Budget:
    """Return the budget of the study's search."""
    search, minutes = spec.search, spec.search.cost_minutes
    return Budget(search.trials, None if minutes is None else 60 * minutes, search.target_recall, search.patience)


def winners(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """Return the best `count` finished trials, best first.

    Raises:
        InputError: No trial has finished.
    """
    finished = ranked(study)
    if not finished:
        raise InputError(
            f"study {study.study_name!r} has no finished trial to take teachers from; "
            f"hpo status {study.study_name} shows why, hpo launch with more --trials continues it"
        )
    return finished[:count]


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Return the finished trials, best first."""
    finished = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE and t.value is not None]
    return sorted(finished, key=lambda t: (-(t.value or 0.0), t.number))

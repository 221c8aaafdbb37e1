"""Runs single trials so that nothing is lost: interruptions go back to the queue, failures are told with their reason.

Used by search workers and by the distillation alike, with Optuna's ask/tell underneath.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from hpo.artifacts import attach_checkpoint
from hpo.search.asha import Decision
from hpo.search.budget import Budget
from hpo.search.signals import Shield, shielded
from hpo.search.trial_chains import COST, ERROR, REASON
from hpo.search.trial_queue import LeaseLost, Resume, TrialQueue
from storage.database.retrying_storage import RetryingStorage
from storage.errors import ArtifactsUnavailable, DatabaseUnreachable

if TYPE_CHECKING:  # holds back torch
    from studies.training.rungs import RungReport

log = logging.getLogger(__name__)

Value = float | Sequence[float]
Objective = Callable[[optuna.Trial], Value]

MAX_FAILURES_IN_A_ROW = 3
# Between two looks at whether anything has come up to do.
WAIT_SECONDS = 2.0


class Paused(Exception):
    """The trial shall not go on for now; what it has reached is kept for whoever goes on with it."""


def open_study(storage: Any, name: str, sampler: Any = None, pruner: Any = None, create: bool = False) -> optuna.Study:
    """The study of that name on this storage; with `create`, made if it is new."""
    if create:
        return optuna.create_study(
            storage=storage, study_name=name, sampler=sampler, pruner=pruner, direction="maximize", load_if_exists=True
        )
    return optuna.load_study(storage=storage, study_name=name, sampler=sampler, pruner=pruner)


def run_all(
    queue: TrialQueue, budget: Budget, objective: Objective, resume: Resume | None = None
) -> Iterator[TrialState]:
    """Runs trials until the study has ended, and yields how each did.

    A worker that finds nothing to do stays while others run: one of them may die and leave its trial, or end so that a
    stopped trial goes on.

    Raises:
        KeyboardInterrupt: as `run_next` does.
    """
    while True:
        state = run_next(queue, budget, objective, resume)
        if state is not None:
            yield state
        elif queue.others_run() and not queue.stop_requested():
            time.sleep(WAIT_SECONDS)
        else:
            return


def run_next(
    queue: TrialQueue, budget: Budget, objective: Objective, resume: Resume | None = None
) -> TrialState | None:
    """Asks for the next trial and runs it to its end; None when no further one may start.

    Args:
        queue: this worker's dealings with the study.
        budget: exact in trials across workers.
        objective: the trial's value, or one for each of the study's directions.
        resume: hears all trials before a new one is asked for, may queue one that was stopped, and says whether it did.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM; the trial waits to go on.
    """
    with shielded() as shield:
        trial = queue.ask(budget, resume)
        if trial is None:
            return None
        state = run(queue, trial, objective, shield)
        log.info("trial %d: %s", trial.number, state.name)
        return state


def run(queue: TrialQueue, trial: optuna.Trial, objective: Objective, shield: Shield) -> TrialState:
    """Runs one trial to its end and tells the study; returns WAITING for one that goes on later, maybe elsewhere.

    A KeyboardInterrupt (Ctrl-C, SIGTERM) puts the trial back and goes on upwards, as does a full disk; a database that
    stays away goes on upwards too. None of them is the trial's fault.
    """
    try:
        try:
            end = _end(queue, trial, objective, shield)
        except (KeyboardInterrupt, ArtifactsUnavailable):
            with contextlib.suppress(LeaseLost):
                queue.requeue(trial)
            raise
        if end.state == TrialState.WAITING:
            queue.requeue(trial)
        else:
            queue.tell(trial, end.value, end.state, end.why)
    except LeaseLost as lost:
        log.warning("%s", lost)
        return TrialState.WAITING
    return end.state


@dataclass(frozen=True)
class _End:
    """How a trial ends: its state, its value where it is complete, and attributes that say why."""

    state: TrialState
    value: Value | None = None
    why: Mapping[str, str] | None = None


def _end(queue: TrialQueue, trial: optuna.Trial, objective: Objective, shield: Shield) -> _End:
    """Runs the objective; its exceptions fail the trial with their reason, and are logged."""
    try:
        # The lease is renewed until here, and given back by whoever tells the end.
        with queue.heartbeat(trial), shield.lifted():
            value = objective(trial)
    except optuna.TrialPruned:
        return _End(TrialState.PRUNED)
    except Paused as pause:
        log.info("trial %d pauses: %s", trial.number, pause)
        return _End(TrialState.WAITING)
    except (LeaseLost, ArtifactsUnavailable, DatabaseUnreachable):
        raise
    except Exception as error:
        log.exception("trial %d failed", trial.number)
        return _End(TrialState.FAIL, why={ERROR: f"{type(error).__name__}: {error}"[:2000]})
    if not all(map(math.isfinite, value if isinstance(value, Sequence) else [value])):
        # A hopeless configuration, not a fault: it has spent its share of the budget.
        return _End(TrialState.PRUNED, why={REASON: f"recall is {value}: it diverged"})
    return _End(TrialState.COMPLETE, value)


@dataclass(frozen=True)
class RungReporter:
    """Reports a trial's rungs to Optuna, and ends or pauses the trial there.

    Attributes:
        queue: This worker's; holds the trial's lease.
        storage: Where the study is stored.
        last_step: Optuna's step of the last rung, where the checkpoint becomes an artifact of the trial.
        pause_reason: Says why a trial waits at the rung that it has reached; None where it continues.
        intermediate_values: Whether recalls are reported as intermediate values, which Optuna takes of one objective.
    """

    queue: TrialQueue
    storage: RetryingStorage
    last_step: int
    pause_reason: Callable[[], str | None]
    intermediate_values: bool = True

    def report(
        self,
        trial: optuna.Trial,
        reached: RungReport,
        step: int,
        *,
        chain: int,
        decide: Callable[[], Decision | None],
        record: Callable[[], None] = lambda: None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Report one rung, whose checkpoint is written. A rung that Optuna has already is not reported twice.

        Args:
            trial: The running trial.
            reached: What it measured.
            step: Optuna's step of the rung.
            chain: Number of the trial whose checkpoints these are.
            decide: Returns the pruner's decision once Optuna has the report; None where there is none to make.
            record: Stores the result in our own tables, before Optuna has it.
            attributes: User attributes to set besides the cost.

        Raises:
            LeaseLost: The trial belongs to another worker; nothing was written.
            TrialPruned: The pruner stopped it.
            Paused: It waits here.
        """
        self.queue.check(trial)
        record()
        with self.storage.one_transaction():
            if self.intermediate_values and step not in trial._cached_frozen_trial.intermediate_values:
                trial.report(reached.recall, step)
            for name, value in {COST: round(reached.cost_seconds, 2), **(attributes or {})}.items():
                trial.set_user_attr(name, value)
            if step == self.last_step and math.isfinite(reached.recall):
                attach_checkpoint(trial, chain)
            if (decision := decide()) is not None:
                trial.set_user_attr(REASON, decision.reason)
                if decision.prune:
                    raise optuna.TrialPruned(decision.reason)
        if step < self.last_step and (reason := self.pause_reason()):
            raise Paused(reason)

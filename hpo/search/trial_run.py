"""Runs single trials: an interrupted trial is requeued, a failed one ends with its reason, and none is lost.

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
from hpo.pruning.rules import Decision
from hpo.search.budget import Budget
from hpo.search.trial_chains import COST, ERROR, REASON
from hpo.search.trial_queue import LeaseLost, Promote, TrialQueue
from hpo.signals import Shield, shielded
from storage.database.retrying_storage import RetryingStorage
from storage.errors import ArtifactsUnavailable, DatabaseFailed

# For type checkers alone: torch stays out of the processes that only read a search, such as `hpo status`.
if TYPE_CHECKING:
    from studies.training.rungs import RungReport

log = logging.getLogger(__name__)

Value = float | Sequence[float]
Objective = Callable[[optuna.Trial], Value]

MAX_FAILURES_IN_A_ROW = 3
# An idle worker asks for a trial this often.
POLL_SECONDS = 2.0


class Paused(Exception):
    """The trial is to pause at the rung that it has reached, and to resume from there later."""


def run_all(
    queue: TrialQueue, budget: Budget, objective: Objective, promote: Promote | None = None
) -> Iterator[TrialState]:
    """Run trials until the study has ended, and yield the state in which each ended.

    A worker without a trial waits while others run: one of them may be lost and leave its trial, or its result may
    promote a pruned trial.

    Raises:
        KeyboardInterrupt: As by `run_next`.
    """
    while True:
        state = run_next(queue, budget, objective, promote)
        if state is not None:
            yield state
        elif queue.any_running() and not queue.stop_requested():
            time.sleep(POLL_SECONDS)
        else:
            return


def run_next(
    queue: TrialQueue, budget: Budget, objective: Objective, promote: Promote | None = None
) -> TrialState | None:
    """Ask for the next trial and run it to its end; return None when no further one may start.

    Args:
        queue: Gives trials to this worker.
        budget: Exact in trials across workers.
        objective: Returns the trial's value, or one for each of the study's directions.
        promote: As for `TrialQueue.ask`.

    Raises:
        KeyboardInterrupt: On Ctrl-C or SIGTERM, after the trial was requeued.
    """
    with shielded() as shield:
        trial = queue.ask(budget, promote)
        if trial is None:
            return None
        state = run(queue, trial, objective, shield)
        log.info("trial %d: %s", trial.number, state.name)
        return state


def run(queue: TrialQueue, trial: optuna.Trial, objective: Objective, shield: Shield) -> TrialState:
    """Run one trial to its end and tell the study; return WAITING for one that resumes later, maybe elsewhere.

    Raises:
        KeyboardInterrupt: On Ctrl-C or SIGTERM; the trial was requeued.
        ArtifactsUnavailable: A checkpoint could not be written or read; the trial was requeued.
        DatabaseFailed: The database stayed away or refused; another worker requeues the trial.
    """
    try:
        try:
            end = _evaluate(queue, trial, objective, shield)
        except (KeyboardInterrupt, ArtifactsUnavailable):
            with contextlib.suppress(LeaseLost):
                queue.requeue(trial)
            raise
        if end.state == TrialState.WAITING:
            queue.requeue(trial)
        else:
            queue.tell(trial, end.value, end.state, end.attributes)
    except LeaseLost as lost:
        log.warning("%s", lost)
        return TrialState.WAITING
    return end.state


@dataclass(frozen=True)
class _End:
    """How a trial ends: its state, its value where it is complete, and user attributes that say why."""

    state: TrialState
    value: Value | None = None
    attributes: Mapping[str, str] | None = None


def _evaluate(queue: TrialQueue, trial: optuna.Trial, objective: Objective, shield: Shield) -> _End:
    """Run the objective; its exceptions fail the trial with their reason, and are logged."""
    try:
        # Heartbeats end here; the lease is released together with the trial's end.
        with queue.heartbeat.of(trial.number), shield.lifted():
            value = objective(trial)
    except optuna.TrialPruned:
        return _End(TrialState.PRUNED)
    except Paused as pause:
        log.info("trial %d pauses: %s", trial.number, pause)
        return _End(TrialState.WAITING)
    except (LeaseLost, ArtifactsUnavailable, DatabaseFailed):
        raise
    except Exception as error:
        log.exception("trial %d failed", trial.number)
        return _End(TrialState.FAIL, attributes={ERROR: f"{type(error).__name__}: {error}"[:2000]})
    if not all(map(math.isfinite, value if isinstance(value, Sequence) else [value])):
        # Pruned, not failed: the configuration is hopeless, nothing is broken, and it counts against the budget.
        return _End(TrialState.PRUNED, attributes={REASON: f"recall is {value}: training diverged"})
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

"""Requeues stale trials: those that the database shows as running although no live worker holds their lease."""

from __future__ import annotations

import contextlib
import logging

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.search.trial_chains import COST, ERROR, LOST
from storage.database.leases import Leases, Worker

log = logging.getLogger(__name__)


def requeue_stale(
    study: optuna.Study, storage: RDBStorage, leases: Leases, worker: Worker, retries: int
) -> list[FrozenTrial]:
    """Requeue a study's stale trials; only while holding the study's lock.

    The lock is lost with its connection, so another worker may hold it too. Each trial is therefore requeued under
    its own lease: one that is leased to a worker meanwhile is left to that worker.

    A trial whose worker was lost is retried from its last checkpoint, a limited number of times. A running trial
    without any lease was asked for but never leased: both happen under one lock, which an outage of the database may
    have broken in between. It counts no lost worker.

    Args:
        study: The study.
        storage: Its storage.
        leases: Leases on its trials.
        worker: This process.
        retries: How often a trial that lost its worker is retried from the same rung before it fails.

    Returns:
        All trials of the study as they are afterwards.
    """
    workers = leases.workers()
    trials = study.get_trials(deepcopy=False)
    stale = [trial for trial in trials if trial.state == TrialState.RUNNING and trial.number not in workers.live]
    for trial in stale:
        lost = workers.lost.get(trial.number)
        if lost is None and leases.acquire(trial.number, worker):
            requeue(storage, trial._trial_id)
        elif lost is not None and leases.take_over(trial.number, worker, lost):
            _retry_or_fail(storage, trial, retries)
    # Of finished trials too: a worker may have been lost between the end of its trial and the release.
    if ended := workers.lost | {trial.number: worker.name for trial in stale}:
        leases.release(ended)
    return study.get_trials(deepcopy=False) if stale else trials


def requeue(storage: RDBStorage, trial_id: int) -> None:
    """Let a running trial wait for the next worker; one that has finished stays finished."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_state_values(trial_id, TrialState.WAITING)


def _retry_or_fail(storage: RDBStorage, trial: FrozenTrial, retries: int) -> None:
    # The cost grows with every rung. Intermediate values do not: a student that is trained again reports none.
    reached = float(trial.user_attrs.get(COST, 0.0))
    lost = [*trial.user_attrs.get(LOST, []), reached]
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_user_attr(trial._trial_id, LOST, lost)
        if lost.count(reached) <= retries:
            log.warning("trial %d: its worker was lost; requeued from its last checkpoint", trial.number)
            requeue(storage, trial._trial_id)
            return
        place = f"after the rung at {reached:g} s of cost" if reached else "before its first rung"
        reason = f"its worker was lost {lost.count(reached)} times {place}: killed, or out of memory?"
        storage.set_trial_user_attr(trial._trial_id, ERROR, reason)
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

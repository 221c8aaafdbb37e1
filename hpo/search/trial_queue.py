"""Asks for trials within the budget and ends them, each under a lease (`storage.database.leases`).

Several workers share a study: a trial belongs to the worker that holds its lease. A trial that is interrupted, or
whose worker was lost, is requeued as the same trial, with its number, its values and its checkpoints.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.search.budget import Budget
from hpo.search.heartbeat import Heartbeat
from hpo.search.stale_trials import requeue, requeue_stale
from hpo.search.trial_chains import resumes
from storage.database.control import Control
from storage.database.leases import Leases, Worker
from storage.database.postgres import Database
from storage.database.records import Records
from storage.database.retry import retry_transient
from storage.errors import LockLost

log = logging.getLogger(__name__)

# Queues the pruned trial to be resumed before a new one is asked for; returns whether there was one.
Promote = Callable[[Sequence[FrozenTrial]], bool]


class LeaseLost(Exception):
    """The trial's lease went to another worker, because this one did not renew it: write nothing of the trial."""


class TrialQueue:
    """The trials of a study, as one worker asks for them and ends them.

    Args:
        database: Where the study lives.
        study: The study, with its sampler.
        name: Name of the registered study, whose stop requests and deadline hold.
        retries: How often a trial whose worker was lost is retried from the same rung before it fails.
        timed: Whether the deadline of the launch holds: for the search, not for the distillation after it.
    """

    def __init__(self, database: Database, study: optuna.Study, name: str, retries: int, *, timed: bool = True) -> None:
        self.study, self._retries, self._timed = study, retries, timed
        self._storage: RDBStorage = database.storage
        self._records, self._leases = Records(database.engine), Leases(database.engine, study.study_name)
        self._control = Control(database.engine, name)
        self._worker = Worker.here()
        self.heartbeat = Heartbeat(self._leases, self._control, self._worker)

    def report_progress(self, progress: float) -> None:
        """Note how much of the running trial is done, from 0 to 1; the next heartbeat stores it."""
        self.heartbeat.report_progress(progress)

    def ask(self, budget: Budget, promote: Promote | None = None) -> optuna.Trial | None:
        """Return the next trial, leased to this worker; None when no further one may start.

        Args:
            budget: Exact in trials, whatever the number of workers.
            promote: Called with all trials before a new one is asked for.
        """
        while True:
            trial: optuna.Trial | None = None
            try:
                with self._records.exclusive(self.study.study_name):
                    trials = self._requeue_stale()
                    if self.stop_requested():
                        return None
                    promoted = promote is not None and not budget.exhausted(trials) and promote(trials)
                    if not promoted and budget.spent(trials):
                        return None
                    trial = self._resumed(trials, promoted) or self.study.ask()
                    if self._leases.acquire(trial.number, self._worker) and self._is_running(trial):
                        return trial
            except LockLost:
                log.warning("the study's lock was lost with its connection; asking again")
            if trial is not None:
                # Another worker may have held the lock too: the budget may be overspent, the trial leased to it, or
                # requeued by it before we had the lease.
                with contextlib.suppress(LeaseLost):
                    self.requeue(trial)

    def stop_requested(self) -> bool:
        """Tell whether the study was stopped or its deadline has passed."""
        state = self._control.state()
        return state.stop is not None or (self._timed and state.overdue)

    def any_running(self) -> bool:
        """Tell whether any trial of the study runs, after stale ones were requeued."""
        try:
            with self._records.exclusive(self.study.study_name):
                return any(trial.state == TrialState.RUNNING for trial in self._requeue_stale())
        except LockLost:
            return True  # unknown: the caller asks again

    def check(self, trial: optuna.Trial) -> None:
        """Check that this worker still holds a trial's lease.

        Raises:
            LeaseLost: It does not.
        """
        if not self._leases.is_held(trial.number, self._worker):
            raise LeaseLost(f"trial {trial.number} was given to another worker: this one did not renew its lease")

    def requeue(self, trial: optuna.Trial) -> None:
        """Release a trial for the next worker to resume.

        Raises:
            LeaseLost: Another worker holds it; nothing was written.
        """
        self._end(trial, lambda: requeue(self._storage, trial._trial_id))

    def tell(
        self,
        trial: optuna.Trial,
        value: float | Sequence[float] | None = None,
        state: TrialState = TrialState.COMPLETE,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """End a trial.

        Args:
            trial: Leased to this worker.
            value: Of a complete trial.
            state: How it ended.
            attributes: User attributes that say why.

        Raises:
            LeaseLost: Another worker holds it; nothing was written.
        """

        def write() -> None:
            for key, text in (attributes or {}).items():
                # A retry after an unacknowledged commit finds the trial finished.
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    trial.set_user_attr(key, text)
            self.study.tell(trial, value, state, skip_if_finished=True)

        self._end(trial, write)

    @retry_transient
    def _end(self, trial: optuna.Trial, write: Callable[[], object]) -> None:
        with self._leases.releasing(trial.number, self._worker) as held:
            if not held:
                raise LeaseLost(f"trial {trial.number} was given to another worker")
            write()

    def _resumed(self, trials: Sequence[FrozenTrial], promoted: bool) -> optuna.Trial | None:
        """Return a waiting trial that is no new one, before any starting point that waits; None where there is none."""
        if not promoted and not any(map(resumes, trials)):
            return None
        for waiting in filter(resumes, self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))):
            if self._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING):
                return optuna.Trial(self.study, waiting._trial_id)
        return None

    def _is_running(self, trial: optuna.Trial) -> bool:
        return self._storage.get_trial(trial._trial_id).state == TrialState.RUNNING

    def _requeue_stale(self) -> list[FrozenTrial]:
        return requeue_stale(self.study, self._storage, self._leases, self._worker, self._retries)

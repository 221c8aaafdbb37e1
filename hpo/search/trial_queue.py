"""Who gets which trial: asking within the budget, heartbeats, and what the dead leave behind, taken up by the living.

A trial that a worker begins is its own while it renews its lease (`storage.database.leases`). What is interrupted goes
back to the queue as the same trial, with its number, its values and its checkpoints, and so does the trial of a worker
that died, a limited number of times.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.search.budget import Budget
from hpo.search.trial_chains import ERROR, LOST
from storage.database.control import Control
from storage.database.leases import BEAT_SECONDS, Leases, Worker
from storage.database.postgres import Database
from storage.database.records import Records
from storage.database.retry import retry_transient
from storage.errors import LockLost

log = logging.getLogger(__name__)

Resume = Callable[[Sequence[FrozenTrial]], bool]


class LeaseLost(Exception):
    """The trial is another worker's by now: this one was silent for too long. Nothing of it may be written."""


class TrialQueue:
    """One worker's dealings with the trials of a study.

    Args:
        database: where the study lives.
        study: the study, with its sampler.
        name: of the registered study whose orders count.
        retries: how often a trial whose worker died is tried again from the same rung before it fails.
        timed: whether the launch's time holds: it is that of the search, not of what comes after.
    """

    def __init__(self, database: Database, study: optuna.Study, name: str, retries: int, *, timed: bool = True) -> None:
        self.study, self._retries, self._timed = study, retries, timed
        self._storage: RDBStorage = database.storage
        self._records, self._leases = Records(database.engine), Leases(database.engine, study.study_name)
        self._control = Control(database.engine, name)
        self._me = Worker.here()
        self._progress: float | None = None

    def advance(self, progress: float) -> None:
        """Notes how much of the running trial is done, from 0 to 1; the next heartbeat says so."""
        self._progress = progress

    def ask(self, budget: Budget, resume: Resume | None = None) -> optuna.Trial | None:
        """The next trial, this worker's own; None when no further one may start.

        Args:
            budget: exact in trials, whatever the number of workers.
            resume: hears all trials before a new one is asked for, may queue one that was stopped, and says whether it
                did.
        """
        while True:
            trial: optuna.Trial | None = None
            try:
                with self._records.exclusive(self.study.study_name):
                    trials = self._requeue_stale()
                    if self.stop_requested():
                        return None
                    queued = resume is not None and not budget.exhausted(trials) and resume(trials)
                    if not queued and budget.spent(trials):
                        return None
                    trial = self.study.ask()
                    if self._leases.take(trial.number, self._me):
                        return trial
            except LockLost:
                log.warning("the study's lock went with its connection; asking again")
            if trial is not None:
                # Another may have been inside as well: the budget may be overspent, or the trial the other's by now.
                with contextlib.suppress(LeaseLost):
                    self.requeue(trial)

    def stop_requested(self) -> bool:
        """Whether the study was stopped, or its time is over."""
        orders = self._control.orders()
        return orders.stop is not None or (self._timed and orders.late)

    def others_run(self) -> bool:
        """Whether any trial of the study runs, so that work may come of it; what dead workers left is put back."""
        try:
            with self._records.exclusive(self.study.study_name):
                return any(trial.state == TrialState.RUNNING for trial in self._requeue_stale())
        except LockLost:
            return True  # as far as is known

    def check(self, trial: optuna.Trial) -> None:
        """Raises LeaseLost where the trial is not this worker's any more."""
        if not self._leases.held(trial.number, self._me):
            raise LeaseLost(f"trial {trial.number} was given to another worker while this one could not be heard of")

    def requeue(self, trial: optuna.Trial) -> None:
        """Gives up a trial for the next worker to go on with."""
        self._end(trial, lambda: self._wait(trial._trial_id))

    def tell(
        self,
        trial: optuna.Trial,
        value: float | Sequence[float] | None = None,
        state: TrialState = TrialState.COMPLETE,
        why: Mapping[str, str] | None = None,
    ) -> None:
        """Ends a trial.

        Args:
            trial: this worker's.
            value: of a complete one.
            state: how it ended.
            why: attributes that say so.

        Raises:
            LeaseLost: it is another worker's; nothing was written.
        """

        def write() -> None:
            for key, words in (why or {}).items():
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # told, but not heard to be
                    trial.set_user_attr(key, words)
            self.study.tell(trial, value, state, skip_if_finished=True)

        self._end(trial, write)

    @retry_transient
    def _end(self, trial: optuna.Trial, write: Callable[[], object]) -> None:
        with self._leases.ending(trial.number, self._me) as mine:
            if not mine:
                raise LeaseLost(f"trial {trial.number} was given to another worker")
            write()

    def _wait(self, trial_id: int) -> None:
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def _requeue_stale(self) -> list[FrozenTrial]:
        """Puts back what dead workers have left running; under the study's lock. Returns all trials as they are then.

        A trial that runs without a lease is one that was begun and not taken: both happen under the same lock, which
        an outage of the database may have broken meanwhile. It has lost no worker.
        """
        living, lost = self._leases.survey()
        trials = self.study.get_trials(deepcopy=False)
        orphans = [trial for trial in trials if trial.state == TrialState.RUNNING and trial.number not in living]
        for trial in orphans:
            if trial.number in lost:
                self._retry_stale(trial)
            else:
                self._wait(trial._trial_id)
        if lost:
            self._leases.end(lost)
        return self.study.get_trials(deepcopy=False) if orphans else trials

    def _retry_stale(self, trial: FrozenTrial) -> None:
        rung = len(trial.intermediate_values)
        lost = [*trial.user_attrs.get(LOST, []), rung]
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(trial._trial_id, LOST, lost)
            if lost.count(rung) <= self._retries:
                log.warning("trial %d: its worker was lost; it goes on from its last checkpoint", trial.number)
                self._wait(trial._trial_id)
                return
            reason = f"its worker was lost {lost.count(rung)} times before rung {rung + 1}: killed, or out of memory?"
            self._storage.set_trial_user_attr(trial._trial_id, ERROR, reason)
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    @contextlib.contextmanager
    def heartbeat(self, trial: optuna.Trial) -> Iterator[None]:
        """Renews the lease while the block runs; interrupts it when the study is to stop now.

        Where another has the trial by now, the block hears of it from `check` at its next rung.
        """
        done = threading.Event()
        self._progress = None

        def beat() -> None:
            while not done.wait(BEAT_SECONDS):
                try:
                    self._leases.renew(trial.number, self._me, self._progress)
                    stop = self._control.orders().stop == "now"
                except Exception:
                    log.warning("no heartbeat for trial %d; trying again", trial.number, exc_info=True)
                    continue
                if stop and not done.is_set():
                    os.kill(os.getpid(), signal.SIGTERM)  # SIGINT may be ignored, as under nohup

        thread = threading.Thread(target=beat, daemon=True, name=f"heartbeat-{trial.number}")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

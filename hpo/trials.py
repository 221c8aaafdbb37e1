"""Runs single trials so that nothing is lost: heartbeats, interruptions queued again, failures told with their reason.

Used by search workers and by the distillation alike, with Optuna's ask/tell underneath.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.interrupts import Shield, shielded
from hpo.lineage import CONTINUES, ERROR, REASON, cost, counts, stories
from storage.postgres import HEARTBEAT_SECONDS, retry_callback

log = logging.getLogger(__name__)

Objective = Callable[[optuna.Trial], float]
Resume = Callable[[Sequence[FrozenTrial]], bool]

MAX_FAILURES_IN_A_ROW = 3
# Set by an engine for the workers that shall not outlive it: its process id.
LAUNCHER = "HPO_LAUNCHER_PID"


def open_study(storage: Any, name: str, sampler: Any = None, pruner: Any = None, create: bool = False) -> optuna.Study:
    """The study of that name on this storage; with `create`, made if it is new."""
    if create:
        return optuna.create_study(
            storage=storage, study_name=name, sampler=sampler, pruner=pruner, direction="maximize", load_if_exists=True
        )
    return optuna.load_study(storage=storage, study_name=name, sampler=sampler, pruner=pruner)


@dataclass(frozen=True)
class Budget:
    """What ends a search, whichever is spent first.

    Attributes:
        trials: in all.
        cost_seconds: of training and evaluation of all trials together; no limit if left out.
    """

    trials: int
    cost_seconds: float | None = None

    def spent(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether no further trial may start. What was stopped and waits to be taken up again costs, but is none."""
        if self.cost_spent(trials):
            return True
        continues = any(trial.state == TrialState.WAITING and CONTINUES in trial.user_attrs for trial in trials)
        return not continues and sum(map(counts, stories(trials).values())) >= self.trials

    def cost_spent(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether nothing may run any more, not even what was stopped and would be taken up again."""
        return self.cost_seconds is not None and sum(map(cost, stories(trials).values())) >= self.cost_seconds


def ask(study: optuna.Study, budget: Budget, resume: Resume | None = None) -> optuna.Trial | None:
    """The next trial, or None when the budget is spent. Call it under the study's lock, or the budget overshoots."""
    optuna.storages.fail_stale_trials(study)
    trials = study.get_trials(deepcopy=False)
    queued = resume is not None and not budget.cost_spent(trials) and resume(trials)
    if not queued and budget.spent(trials):
        return None
    with _quiet():
        return study.ask()


def run_next(
    study: optuna.Study,
    budget: Budget,
    objective: Objective,
    lock: contextlib.AbstractContextManager[None] | None = None,
    resume: Resume | None = None,
) -> TrialState | None:
    """Asks for the next trial and runs it to its end; None when the budget is spent.

    Args:
        study: the study, with its sampler.
        budget: exact in trials across workers where all ask under one `lock`.
        objective: the trial's value.
        lock: held while asking.
        resume: hears all trials before a new one is asked for, may queue one that was stopped, and says whether it did.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM; the trial's configuration waits to be run again.
    """
    with shielded() as shield:
        with lock or contextlib.nullcontext():
            trial = ask(study, budget, resume)
        if trial is None:
            return None
        state = run(study, trial, objective, shield)
        log.info("trial %d: %s", trial.number, state.name)
        return state


def run(study: optuna.Study, trial: optuna.Trial, objective: Objective, shield: Shield) -> TrialState:
    """Runs one trial to its end and tells the study.

    A KeyboardInterrupt (Ctrl-C, SIGTERM) fails the trial, queues its configuration again and goes on upwards. Any
    other exception fails the trial with its reason in the attribute `error`, and is logged. A value that is not finite
    counts as pruned.
    """
    with _heartbeat(study, trial):
        try:
            with shield.lifted():
                value = objective(trial)
        except optuna.TrialPruned:
            return study.tell(trial, state=TrialState.PRUNED).state
        except KeyboardInterrupt:
            retry_callback(None)(study, study.tell(trial, state=TrialState.FAIL))
            raise
        except Exception as error:
            log.exception("trial %d failed", trial.number)
            trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}"[:2000])
            return study.tell(trial, state=TrialState.FAIL).state
        if not math.isfinite(value):
            # A hopeless configuration, not a fault: it has spent its share of the budget.
            trial.set_user_attr(REASON, f"recall is {value}: training diverged")
            return study.tell(trial, state=TrialState.PRUNED).state
        return study.tell(trial, value).state


@contextlib.contextmanager
def _heartbeat(study: optuna.Study, trial: optuna.Trial) -> Iterator[None]:
    """Keeps the trial from being taken for dead while it runs.

    Optuna's own thread ends for good at the first dropped connection; this one goes on trying. When the launcher that
    started this process dies, it interrupts the trial: nobody is left to stop it.
    """
    storage, done, launcher = study._storage, threading.Event(), os.environ.get(LAUNCHER)

    def beat() -> None:
        while True:
            try:
                storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
            except Exception:
                log.warning("no heartbeat for trial %d; trying again", trial.number, exc_info=True)
            if done.wait(HEARTBEAT_SECONDS):
                return
            if launcher is not None and os.getppid() != int(launcher):
                os.kill(os.getpid(), signal.SIGTERM)  # SIGINT may be ignored, as under nohup

    thread = threading.Thread(target=beat, daemon=True, name=f"heartbeat-{trial.number}")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Optuna warns that heartbeats are meant for study.optimize: ours beat anyway.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

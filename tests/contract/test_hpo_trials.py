"""Single trials on a real PostgreSQL: budgets are exact, interruptions are queued again, failures keep their reason."""

import contextlib
import multiprocessing
import os
import random
import signal
import time

import optuna
import pytest
from optuna.trial import TrialState

from hpo.lineage import COST, ERROR, REASON, counts, origin
from hpo.search import register
from hpo.search_space import suggest
from hpo.trials import Budget, ask, open_study, run_next
from storage.errors import InputError
from storage.postgres import connect
from storage.records import Records
from studies.spec import parse_spec


@pytest.fixture
def study(database):
    return open_study(database.storage, "s", optuna.samplers.RandomSampler(0), create=True)


def attempt(study, outcome):
    """Runs one trial whose objective returns or raises `outcome` after reporting at one rung."""

    def objective(trial):
        trial.suggest_float("x", 0, 1)
        trial.report(0.5, 10)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return run_next(study, Budget(100), objective)


def test_a_diverged_trial_spends_budget_and_says_why(study):
    """Optuna fails a trial whose value is NaN: not counted, it would be replaced without end."""
    assert attempt(study, float("nan")) == TrialState.PRUNED
    trial = study.trials[0]
    assert counts([trial])
    assert "diverged" in trial.user_attrs[REASON]


def test_an_error_keeps_its_reason_spends_budget_and_does_not_stop_the_worker(study):
    """A bad configuration must neither end the search nor be tried for ever."""
    assert attempt(study, RuntimeError("out of memory")) == TrialState.FAIL
    trial = study.trials[0]
    assert trial.user_attrs[ERROR] == "RuntimeError: out of memory"
    assert counts([trial])


def test_an_interrupted_trial_is_queued_again_with_what_it_had(study):
    """Ctrl-C must cost neither the configuration, nor its values so far, nor a place in the budget."""
    with pytest.raises(KeyboardInterrupt):
        attempt(study, KeyboardInterrupt())
    failed, waiting = study.trials
    assert failed.state == TrialState.FAIL
    assert not counts([failed])
    assert waiting.state == TrialState.WAITING
    assert waiting.params == failed.params
    again = ask(study, Budget(1))
    assert again is not None
    frozen = study.trials[again.number]
    assert origin(frozen) == 0
    assert frozen.intermediate_values == {10: 0.5}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_right_after_asking_leaves_no_trial_running(study, number):
    """Optuna has stored the trial, nobody guards it yet: it would stay running, and spend budget, for ever."""

    @contextlib.contextmanager
    def lock():
        yield
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run_next(study, Budget(100), lambda trial: 1.0, lock())
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert signal.getsignal(number) == before


def test_an_interrupt_while_the_value_is_told_waits_until_it_is(study, monkeypatch):
    """The trial is finished: its value must be kept, and the worker must stop all the same."""
    tell = study.tell
    monkeypatch.setattr(study, "tell", lambda *a, **k: (os.kill(os.getpid(), signal.SIGTERM), tell(*a, **k))[1])
    with pytest.raises(KeyboardInterrupt):
        run_next(study, Budget(100), lambda trial: 1.0)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_destructor_swallows_still_stops_the_trial(study):
    """Python prints and drops what a destructor raises: the worker would go on until it is killed."""

    class Interrupted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def objective(trial):
        Interrupted()
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        run_next(study, Budget(100), objective)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_retry_of_a_retry_still_leads_to_the_first_trial(study):
    """Its checkpoint lies under the first number: a chain that broke would start from zero."""
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            attempt(study, KeyboardInterrupt())
    assert origin(study.trials[-1]) == 0


GRID = {
    "name": "g",
    "data": {"source": "completejourney"},
    "search": {
        "sampler": "grid",
        "space": {
            "learner": ["protonet", "anil"],
            "outer_lr": [0.001, 0.002],
            "head": "all",
            "inner_lr": 0.1,
            "inner_steps": [1, 2],
            "meta_batch_size": 4,
            "weight_decay": 0.1,
            "trainable_layers": 0,
        },
    },
}


def test_a_grid_is_queued_once_and_is_the_budget(database):
    """Queued again at every launch it would be searched twice; half queued by a killed launch it must be completed."""
    spec = register(database, parse_spec(GRID), "fingerprint")
    assert spec.search.trials == 6
    study = open_study(database.storage, "g", optuna.samplers.RandomSampler(0))
    assert len(study.trials) == 6
    register(database, parse_spec(GRID), "fingerprint")
    assert len(study.trials) == 6
    tried = set()
    while run_next(study, Budget(spec.search.trials), lambda t: float(tried.add(suggest(t, spec.search)) or 1)):
        pass
    assert len(tried) == 6


def test_other_data_under_an_old_name_are_refused(database):
    """Trials on different data are not comparable, and nothing else would notice."""
    register(database, parse_spec(GRID), "fingerprint")
    with pytest.raises(InputError, match="was started on other data"):
        register(database, parse_spec(GRID), "another")


def _worker(url: str, seed: int, budget: int) -> None:
    database = connect(url)
    records, study = Records(database.engine), open_study(database.storage, "s", optuna.samplers.RandomSampler(seed))
    while run_next(study, Budget(budget), lambda trial: trial.suggest_float("x", 0, 1), records.exclusive("s")):
        time.sleep(random.Random(seed).random() / 50)


@pytest.mark.slow
def test_the_budget_is_exact_with_several_workers(study, database):
    """Optuna's own limits count per worker, or overshoot when several ask at once."""
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_worker, args=(database.url, seed, 25)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert [t.number for t in study.trials] == list(range(25))
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}


def test_the_search_ends_when_its_trials_have_cost_what_they_may(study):
    """An interrupted trial's retry goes on from its cost: counted twice, it would end the search early."""
    budget = Budget(trials=100, cost_seconds=10)

    def spend(seconds):
        def objective(trial):
            trial.set_user_attr(COST, seconds)
            return 1.0

        return run_next(study, budget, objective)

    def interrupted(trial):
        trial.set_user_attr(COST, 5.0)
        raise KeyboardInterrupt

    spend(4.0)
    with pytest.raises(KeyboardInterrupt):
        run_next(study, budget, interrupted)
    assert spend(5.5) == TrialState.COMPLETE, "the retry"
    assert spend(1.0) == TrialState.COMPLETE
    assert spend(1.0) is None
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 3

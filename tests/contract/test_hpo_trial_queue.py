"""The trial queue on a real PostgreSQL: budgets are exact, interruptions cost nothing, failures keep their reason."""

import multiprocessing
import os
import random
import signal
import time

import optuna
import psycopg2
import pytest
from optuna.trial import TrialState

from hpo.ownership import owned_search
from hpo.registry import register
from hpo.search.budget import Budget
from hpo.search.space import suggest
from hpo.search.stale_trials import requeue_stale
from hpo.search.trial_chains import COST, ERROR, LOST, REASON, continuation, spends_budget
from hpo.search.trial_queue import TrialQueue
from hpo.search.trial_run import Paused, run_all, run_next
from storage.database.control import Control
from storage.database.leases import LOST_AFTER_SECONDS, SUSPECT_AFTER_SECONDS, Leases, Worker
from storage.database.postgres import connect
from storage.database.records import Records
from storage.errors import ArtifactsUnavailable, InputError
from studies.config.spec import parse_spec


@pytest.fixture
def study(database):
    sampler = optuna.samplers.RandomSampler(0)
    return optuna.create_study(storage=database.storage, study_name="s", sampler=sampler, direction="maximize")


@pytest.fixture
def queue(database, study):
    return TrialQueue(database, study, "s", retries=3)


def attempt(queue, outcome):
    """Run one trial whose objective returns or raises `outcome` after reporting at one rung."""

    def objective(trial):
        trial.suggest_float("x", 0, 1)
        if not trial.storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(0.5, 10)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return run_next(queue, Budget(100), objective)


def other_worker(name="other"):
    """Return a worker on another machine, whose processes cannot be checked from here."""
    return Worker(name, "elsewhere", 1, 0.0)


def delete_leases(database):
    """Delete all leases."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM scenetune_lease")


def lose_workers(database):
    """Make every holder of a lease a process that is gone."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE scenetune_lease SET pid = 4194305, worker = 'lost'")


def pass_time(database, seconds):
    """Age all leases as so many seconds without a heartbeat would."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE scenetune_lease SET renewed_at = renewed_at - make_interval(secs => %(s)s), "
            "suspected_at = suspected_at - make_interval(secs => %(s)s)",
            {"s": seconds},
        )


def test_a_diverged_trial_spends_budget_and_says_why(study, queue):
    """Optuna fails a trial whose value is NaN: not counted, it would be replaced without end."""
    assert attempt(queue, float("nan")) == TrialState.PRUNED
    trial = study.trials[0]
    assert spends_budget([trial])
    assert "diverged" in trial.user_attrs[REASON]


def test_an_error_keeps_its_reason_spends_budget_and_does_not_stop_the_worker(study, queue):
    """A bad configuration must neither end the search nor be tried for ever."""
    assert attempt(queue, RuntimeError("out of memory")) == TrialState.FAIL
    trial = study.trials[0]
    assert trial.user_attrs[ERROR] == "RuntimeError: out of memory"
    assert spends_budget([trial])


@pytest.mark.parametrize("outcome", [KeyboardInterrupt(), Paused("stopped")])
def test_an_interrupted_or_paused_trial_resumes_as_the_same_trial(study, queue, outcome):
    """It must cost neither the configuration, nor its values so far, nor a place in the budget, nor a number."""
    try:
        assert attempt(queue, outcome) == TrialState.WAITING
    except KeyboardInterrupt:
        assert isinstance(outcome, KeyboardInterrupt)
    (waiting,) = study.trials
    assert waiting.state == TrialState.WAITING
    assert not spends_budget([waiting])
    assert attempt(queue, 1.0) == TrialState.COMPLETE
    (finished,) = study.trials
    assert finished.params == waiting.params
    assert finished.intermediate_values == {10: 0.5}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_right_after_asking_leaves_no_trial_running(study, queue, number, monkeypatch):
    """Optuna has stored the trial, our code does not guard it yet: it would spend budget, running, for ever."""
    ask = queue.ask
    monkeypatch.setattr(queue, "ask", lambda *a: (ask(*a), os.kill(os.getpid(), number))[0])
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run_next(queue, Budget(100), lambda trial: 1.0)
    assert [t.state for t in study.trials] == [TrialState.WAITING]
    assert signal.getsignal(number) == before


def test_an_interrupt_while_the_value_is_told_waits_until_it_is(study, queue, monkeypatch):
    """The trial is finished: its value must be kept, and the worker must stop all the same."""
    tell = study.tell
    monkeypatch.setattr(study, "tell", lambda *a, **k: (os.kill(os.getpid(), signal.SIGTERM), tell(*a, **k))[1])
    with pytest.raises(KeyboardInterrupt):
        run_next(queue, Budget(100), lambda trial: 1.0)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_destructor_swallows_still_stops_the_trial(study, queue):
    """Python prints and drops what a destructor raises: the worker would go on until it is killed."""

    class Interrupted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def objective(trial):
        Interrupted()
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        run_next(queue, Budget(100), objective)
    assert [t.state for t in study.trials] == [TrialState.WAITING]


def test_a_lease_that_is_not_renewed_is_suspect_first_and_its_worker_is_lost_only_later(database, study, queue):
    """After an outage no lease was renewed: the first worker to ask must not take all others for lost."""
    trial = study.ask()
    leases = Leases(database.engine, "s")
    assert leases.acquire(trial.number, other_worker())
    pass_time(database, SUSPECT_AFTER_SECONDS + 1)
    assert queue.any_running(), "suspect, not lost"
    assert leases.renew(trial.number, other_worker()), "live"
    assert leases.is_held(trial.number, other_worker())
    assert not leases.is_held(trial.number, other_worker("third"))
    pass_time(database, LOST_AFTER_SECONDS + 1)
    assert queue.any_running(), "suspect again"
    pass_time(database, LOST_AFTER_SECONDS + 1)
    assert not queue.any_running()
    assert study.trials[0].state == TrialState.WAITING
    assert not leases.renew(trial.number, other_worker())
    assert not leases.is_held(trial.number, other_worker())


def test_a_lease_that_is_only_late_is_not_suspect_yet(database, study, queue):
    """Suspect at every heartbeat that comes late, a worker deep in native code would soon lose its trial."""
    trial = study.ask()
    assert Leases(database.engine, "s").acquire(trial.number, other_worker())
    pass_time(database, SUSPECT_AFTER_SECONDS - 5)
    assert queue.any_running(), "not even suspect"
    pass_time(database, LOST_AFTER_SECONDS + 1)
    assert queue.any_running(), "suspect only now"


def test_a_worker_that_lost_its_lease_writes_nothing_of_the_trial(database, study, queue):
    """Cut off for minutes and back: another worker runs the trial by now and must not find it ended."""
    leases = Leases(database.engine, "s")

    def objective(trial):
        delete_leases(database)
        assert leases.acquire(trial.number, other_worker())
        return 0.9

    assert run_next(queue, Budget(10), objective) == TrialState.WAITING
    (trial,) = study.trials
    assert trial.state == TrialState.RUNNING
    assert trial.value is None
    assert leases.workers() == ({0: "other"}, {})


def test_a_trial_whose_worker_was_lost_on_this_machine_resumes_at_once(database, study, queue):
    """On the same machine the process's absence is proof: there is no need to wait a minute."""
    trial = study.ask()
    here = Worker.here()
    Leases(database.engine, "s").acquire(trial.number, Worker("lost", here.host, 2**22 + 1, here.started))
    assert attempt(queue, 1.0) == TrialState.COMPLETE
    assert [(t.number, t.state) for t in study.trials] == [(0, TrialState.COMPLETE)]


def test_a_reused_process_id_is_not_taken_for_the_worker(database, study, queue):
    """A lost worker's process id, given to some daemon, would keep its trial running for ever."""
    trial = study.ask()
    here = Worker.here()
    Leases(database.engine, "s").acquire(trial.number, Worker("lost", here.host, here.pid, here.started - 3600))
    assert not queue.any_running()


def test_a_heartbeat_says_how_far_the_trial_is(database, queue, monkeypatch):
    """Between its rungs a trial of an hour would look the same as one that hangs."""
    monkeypatch.setattr("hpo.search.heartbeat.HEARTBEAT_SECONDS", 0.01)
    leases, seen = Leases(database.engine, "s"), []

    def objective(trial):
        for progress in (0.25, 0.5):
            queue.report_progress(progress)
            for _ in range(1000):
                if leases.all()[trial.number].progress == progress:
                    break
                time.sleep(0.01)
            seen.append(leases.all()[trial.number])
        return 1.0

    assert run_next(queue, Budget(1), objective) == TrialState.COMPLETE
    assert [lease.progress for lease in seen] == [0.25, 0.5]
    assert all(0 <= lease.seconds_since_renewal < SUSPECT_AFTER_SECONDS for lease in seen)
    assert leases.all() == {}


def test_a_running_trial_without_a_lease_is_requeued_and_counts_no_lost_worker(study, queue):
    """Its worker was killed, or the database went, before the lease: it would stay running, yet it killed no worker."""
    study.ask()
    assert attempt(queue, 1.0) == TrialState.COMPLETE
    (trial,) = study.trials
    assert LOST not in trial.user_attrs


def test_listing_lost_workers_keeps_their_leases_until_their_trials_are_requeued(database, study, queue):
    """`hpo stop` and `hpo delete` list them as well: a loss that only they had seen would not be counted."""
    queue.ask(Budget(1))
    lose_workers(database)
    leases = Leases(database.engine, "s")
    assert leases.workers() == ({}, {0: "lost"})
    assert leases.workers() == ({}, {0: "lost"})
    assert not queue.any_running()
    assert leases.workers() == ({}, {})
    assert study.trials[0].user_attrs[LOST] == [0]


def test_a_trial_that_kills_its_workers_fails_in_the_end_and_says_so(database, study, queue):
    """One that takes all memory would take every worker of the study with it."""
    for _ in range(4):
        assert queue.ask(Budget(1)) is not None
        lose_workers(database)
    assert queue.ask(Budget(1)) is None
    (trial,) = study.trials
    assert trial.state == TrialState.FAIL
    assert "its worker was lost 4 times before its first rung" in trial.user_attrs[ERROR]
    assert trial.user_attrs[LOST] == [0, 0, 0, 0]


def test_each_rung_has_its_own_retries_also_where_no_recall_is_reported_to_optuna(database, study, queue):
    """A student that is trained again, and those of several objectives, report no intermediate values."""
    for cost in (0.0, 2.5, 2.5, 2.5, 2.5):
        trial = queue.ask(Budget(1))
        if cost:
            trial.set_user_attr(COST, cost)
        lose_workers(database)
    assert queue.ask(Budget(1)) is None
    (trial,) = study.trials
    assert trial.user_attrs[LOST] == [0, 2.5, 2.5, 2.5, 2.5]
    assert "its worker was lost 4 times after the rung at 2.5 s of cost" in trial.user_attrs[ERROR]


def cut_all(database):
    """End every connection to the database but this one, which closes."""
    with psycopg2.connect(database.url.replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    connection.close()


def test_a_lock_lost_while_asking_leaves_one_trial_with_one_lease(database, study, queue):
    """The server restarts just then: another worker may have held the lock, so the worker asks again."""
    cuts = iter([True, False])

    def promote(trials):
        if next(cuts):
            cut_all(database)
        return False

    trial = queue.ask(Budget(1), promote)
    assert trial is not None
    assert [t.state for t in study.trials] == [TrialState.RUNNING]
    workers = Leases(database.engine, "s").workers()
    assert workers.live.keys() == {trial.number}
    assert not workers.lost
    assert queue.ask(Budget(1)) is None
    assert queue.any_running()


@pytest.mark.parametrize("lost", [False, True])
def test_a_trial_that_is_leased_meanwhile_is_not_requeued(database, study, queue, lost, monkeypatch):
    """A worker that had lost the lock requeued it under the one that ran it: 'Cannot tell a WAITING trial'."""
    cut_off = TrialQueue(database, study, "s", retries=3)
    running = []
    if lost:
        queue.ask(Budget(2))
        lose_workers(database)
    else:
        study.ask()
    listed = Leases.workers

    def workers(leases):
        found = listed(leases)
        if not running:
            running.append(None)
            running[0] = queue.ask(Budget(2))
        return found

    monkeypatch.setattr(Leases, "workers", workers)
    requeue_stale(study, database.storage, Leases(database.engine, "s"), other_worker(), retries=3)
    (trial,) = running
    assert trial.number == 0
    assert [t.state for t in study.trials] == [TrialState.RUNNING]
    assert Leases(database.engine, "s").workers().live.keys() == {0}
    assert cut_off.ask(Budget(2)).number == 1
    queue.tell(trial, 1.0)
    assert study.trials[0].state == TrialState.COMPLETE


def test_a_trial_that_is_requeued_before_it_is_leased_is_asked_for_again(database, study, queue, monkeypatch):
    """The same race, the other way round."""
    acquire, cut = Leases.acquire, []

    def late(leases, number, worker):
        if not cut:
            cut.append(number)
            requeue_stale(study, database.storage, Leases(database.engine, "s"), other_worker(), retries=3)
        return acquire(leases, number, worker)

    monkeypatch.setattr(Leases, "acquire", late)
    trial = queue.ask(Budget(1))
    assert trial.number == 0
    assert cut == [0]
    assert [t.state for t in study.trials] == [TrialState.RUNNING]
    queue.tell(trial, 1.0)
    assert study.trials[0].state == TrialState.COMPLETE


def test_nothing_begins_after_a_stop_until_it_is_withdrawn(database, study, queue):
    """`hpo stop` that lets one more trial begin has to be given again."""
    Records(database.engine).save_study("s", {}, "f")
    control = Control(database.engine, "s")
    control.start("1", None)
    control.stop("rung")
    assert queue.ask(Budget(10)) is None
    control.start("1", None)
    assert queue.ask(Budget(10)) is not None


def test_nothing_begins_after_the_deadline_of_a_launch(database, study, queue):
    """By the server's clock: a worker whose own is an hour off must stop neither early nor late."""
    Records(database.engine).save_study("s", {}, "f")
    control = Control(database.engine, "s")
    control.start("1", 0.05)
    time.sleep(0.1)
    assert queue.stop_requested()
    assert queue.ask(Budget(10)) is None
    untimed = TrialQueue(database, study, "s", 3, timed=False)
    assert untimed.ask(Budget(10)) is not None, "the distillation has no deadline"


@pytest.mark.parametrize(
    ("budget", "recalls", "ended_by"),
    [
        (Budget(10, target=0.5), [0.1, 0.5], "reaches the target"),
        (Budget(10, patience=2), [0.1, 0.5, 0.4, 0.5], "2 trials without progress"),
        (Budget(3), [0.1, 0.2, 0.3], "3 trials"),
    ],
)
def test_a_search_ends_when_its_budget_says_so(study, queue, budget, recalls, ended_by):
    """Every limit ends it at the trial that reaches it, and says which it was."""
    given = iter(recalls)
    assert list(run_all(queue, budget, lambda trial: next(given))) == [TrialState.COMPLETE] * len(recalls)
    assert ended_by in budget.spent(study.trials)


def test_a_trial_that_was_pruned_and_continued_costs_patience_once(study):
    """A trial that is promoted and pruned again is one that did not improve, not two."""
    study.tell(study.ask(), 0.5)
    study.tell(study.ask(), state=TrialState.PRUNED)
    study.add_trial(continuation(study.trials[1], 0, "promoted"))
    study.tell(study.ask(), state=TrialState.PRUNED)
    assert Budget(10, patience=2).exhausted(study.trials) is None
    study.tell(study.ask(), state=TrialState.PRUNED)
    assert Budget(10, patience=2).exhausted(study.trials) == "2 trials without progress"


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
    study = owned_search(database, "g").open(sampler=optuna.samplers.RandomSampler(0))
    assert len(study.trials) == 6
    register(database, parse_spec(GRID), "fingerprint")
    assert len(study.trials) == 6
    tried = set()
    queue = TrialQueue(database, study, "g", 3)
    while run_next(queue, Budget(spec.search.trials), lambda t: float(tried.add(suggest(t, spec.search)) or 1)):
        pass
    assert len(tried) == 6


def test_other_data_under_an_old_name_are_refused(database):
    """Trials on different data are not comparable, and no other check would find out."""
    register(database, parse_spec(GRID), "fingerprint")
    with pytest.raises(InputError, match="was started on other data"):
        register(database, parse_spec(GRID), "another")


def _worker(url: str, seed: int, budget: int) -> None:
    database = connect(url)
    sampler = optuna.samplers.RandomSampler(seed)
    study = optuna.load_study(storage=database.storage, study_name="s", sampler=sampler)
    queue = TrialQueue(database, study, "s", 3)
    while run_next(queue, Budget(budget), lambda trial: trial.suggest_float("x", 0, 1)):
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


def test_the_search_ends_when_its_trials_have_spent_the_cost_budget(study, queue):
    """An interrupted trial keeps its cost: forgotten, or counted twice, the search would end at another trial."""
    budget = Budget(trials=100, cost_seconds=10)

    def spend(seconds):
        def objective(trial):
            trial.set_user_attr(COST, seconds)
            return 1.0

        return run_next(queue, budget, objective)

    def interrupted(trial):
        trial.set_user_attr(COST, 5.0)
        raise KeyboardInterrupt

    spend(4.0)
    with pytest.raises(KeyboardInterrupt):
        run_next(queue, budget, interrupted)
    assert spend(5.5) == TrialState.COMPLETE, "the interrupted one"
    assert spend(1.0) == TrialState.COMPLETE
    assert spend(1.0) is None
    assert len(study.trials) == 3


def test_a_full_disk_ends_the_worker_and_not_its_trial(study, queue):
    """Three trials would fail for it within minutes, and a night's search with them."""
    with pytest.raises(ArtifactsUnavailable):
        attempt(queue, ArtifactsUnavailable("cannot write the checkpoint"))
    assert [t.state for t in study.trials] == [TrialState.WAITING]
    assert attempt(queue, 1.0) == TrialState.COMPLETE


@pytest.mark.parametrize("outcome", [optuna.TrialPruned(), Paused("stopped"), RuntimeError("boom")])
def test_a_lost_lease_does_not_fail_the_worker_however_the_trial_ends(database, study, queue, outcome):
    """An exception out of the worker would end the whole search."""

    def objective(trial):
        delete_leases(database)
        assert Leases(database.engine, "s").acquire(trial.number, other_worker())
        raise outcome

    assert run_next(queue, Budget(10), objective) == TrialState.WAITING
    (trial,) = study.trials
    assert trial.state == TrialState.RUNNING
    assert ERROR not in trial.user_attrs

"""A search on a real PostgreSQL, with training played: who is stopped, taken up again, finished, and counted."""

import math
import multiprocessing
import os
import shutil
import signal
import time

import optuna
import pytest
from optuna.trial import TrialState

from hpo.lifecycle import check_startable
from hpo.registry import register
from hpo.search.loop import Search
from hpo.search.pruner import RecallPruner
from hpo.search.trial_chains import CONTINUES, CONTROL_GROUP, ERROR, REASON, chains, origin
from hpo.status.snapshot import snapshot
from storage.database.control import Control
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import connect
from storage.database.records import Records, RungResult
from storage.errors import InputError
from storage.home import trial_folder
from studies.config.spec import parse_spec
from studies.training.rungs import RungReport

SCENES = ("tea", "cheese")
RUNGS = [10, 30, 90]


def spec(trials=9, **pruner):
    return parse_spec(
        {
            "name": "s",
            "data": {"source": "completejourney"},
            "search": {
                "trials": trials,
                "sampler": "random",
                "space": {"learner": "protonet", "trainable_layers": 0, "outer_lr": {"low": 1e-4, "high": 1e-3}},
            },
            "pruner": {"rungs": RUNGS, "eta": 3, "keep": 0.0} | pruner,
            "finalists": {"count": 2},
            "distill": {"space": {"teachers": 1}},
        }
    )


def recall_of(values, rung):
    """What a played training reaches: the higher its learning rate the better, and a little more at every rung."""
    return values.outer_lr * 300 + rung * 0.01


def played(values, folder, report, recall=recall_of):
    """Trains nothing; keeps a checkpoint as the real one does, and reports its last rung again when it goes on."""
    marker = folder / "rung"
    done = int(marker.read_text()) if marker.exists() else -1
    folder.mkdir(parents=True, exist_ok=True)
    for rung in range(max(done, 0), len(RUNGS)):
        value = recall(values, rung)
        marker.write_text(str(rung))
        report(RungReport(rung, RUNGS[rung], value, dict.fromkeys(SCENES, value), float(RUNGS[rung])))
    return value


def latest(trials):
    """The last trial of each chain."""
    return [chain[-1] for chain in chains(trials).values()]


def search(database, study, train=played):
    register(database, study, "fingerprint")
    return Search(database, study, SCENES, train)


def run(database, study, train=played):
    joined = search(database, study, train)
    for _ in joined.run_all():
        pass
    return joined.study.get_trials(deepcopy=False)


def test_a_search_stops_most_trials_and_finishes_the_best(database):
    """The one thing a pruner is for."""
    study = spec(trials=27)
    trials = run(database, study)
    known = chains(trials)
    assert len(known) == 27
    finished = [chain[-1] for chain in known.values() if chain[-1].state == TrialState.COMPLETE]
    best = max(trials, key=lambda trial: trial.params["outer_lr"])
    assert origin(best) in {origin(trial) for trial in finished}
    assert 2 <= len(finished) < 14
    stopped = [chain[-1] for chain in known.values() if chain[-1].state == TrialState.PRUNED]
    assert all("go on" in trial.user_attrs[REASON] or "goes on" in trial.user_attrs[REASON] for trial in stopped)
    assert all("recall@10" in trial.user_attrs[REASON] for trial in stopped)
    results = Records(database.engine).rung_results("s")
    assert len({(result.trial, result.rung) for result in results}) == len(results)


def test_a_stopped_trial_goes_on_from_its_checkpoint_as_one_story(database):
    """Its second place is worth going on with once enough worse ones are in; training it anew would cost twice."""
    recalls, begun = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.05]), {}

    def recall(values, rung):
        if values.outer_lr not in begun:
            begun[values.outer_lr] = next(recalls)
        return begun[values.outer_lr]

    folders = []

    def train(values, folder, report):
        folders.append(folder)
        return played(values, folder, report, recall)

    trials = run(database, spec(trials=6), train)
    stopped, again = chains(trials)[1][:2]
    assert (stopped.state, stopped.last_step) == (TrialState.PRUNED, RUNGS[0])
    assert (again.user_attrs[CONTINUES], again.last_step) == (1, RUNGS[1])
    assert again.params == stopped.params
    assert again.intermediate_values[RUNGS[0]] == 0.4, "the whole curve in one trial"
    assert folders.count(trial_folder("s", 1)) == len(chains(trials)[1]), "every part of it from one checkpoint"
    shot = snapshot(database, spec(trials=6))
    assert [view.chain for view in shot.trials] == sorted(chains(trials))
    assert len(shot.trials) == shot.spent == 6
    assert shot.cost_seconds == sum(max(t.intermediate_values) for t in latest(trials)), (
        "what it cost before counts once"
    )


def test_as_many_trials_finish_as_are_to_be_looked_at_again(database):
    """A handful of trials at eta 3 would leave one winner, or one that luck sent on."""
    trials = run(database, spec(trials=3))
    assert sum(trial.state == TrialState.COMPLETE for trial in latest(trials)) == 2


def test_a_search_has_not_ended_while_a_stopped_trial_is_to_go_on(database):
    """Between two trials nothing runs for a moment: whoever looks then would report too early, or never resume."""
    study = spec(trials=3)
    joined = search(database, study)
    for begun in range(3):
        assert snapshot(database, study).spent == begun
        joined.run_next()
    shot = snapshot(database, study)
    assert (shot.spent, shot.running, shot.ended_by, shot.finished) == (3, 0, None, False)
    check_startable(database, study)
    for _ in joined.run_all():
        pass
    assert snapshot(database, study).ended_by == "3 trials"
    with pytest.raises(InputError, match="has ended: 3 trials"):
        check_startable(database, study)


def test_a_diverged_trial_stops_at_once_and_stays_stopped(database):
    """Taken up again it would diverge again, for ever."""
    trials = run(database, spec(trials=3), lambda v, f, r: played(v, f, r, lambda values, rung: math.nan))
    assert [trial.state for trial in trials] == [TrialState.PRUNED] * 3
    assert "diverged" in trials[0].user_attrs[REASON]


def test_the_bracket_that_is_kept_finishes_and_is_counted_in_the_snapshot(database):
    """Its members are what shows whether pruning loses good trials."""
    study = spec(trials=9, keep=1.0)
    trials = run(database, study)
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    control_group = [trial for trial in trials if CONTROL_GROUP in trial.user_attrs]
    shot = snapshot(database, study)
    assert len(shot.control_group) == len(control_group) > 0
    finished = sorted(trials, key=lambda trial: -trial.value)
    assert {t.number for t in shot.false_prunes(3)} == {t.number for t in finished[:3] if CONTROL_GROUP in t.user_attrs}


def test_nothing_is_taken_up_again_once_the_cost_is_spent(database):
    """A continuation queued for nobody would leave a search that never ends."""
    study = spec(trials=100)
    study = study.model_copy(update={"search": study.search.model_copy(update={"cost_minutes": 8})})
    trials = run(database, study)
    assert TrialState.WAITING not in {trial.state for trial in trials}
    shot = snapshot(database, study)
    assert shot.finished
    assert 480 <= shot.cost_seconds < 480 + RUNGS[-1]


def test_without_a_pruner_everything_finishes(database):
    """`pruner.kind = "none"` is the control."""
    assert all(trial.state == TrialState.COMPLETE for trial in run(database, spec(kind="none")))


def test_the_same_seed_gives_the_same_search(database):
    """A search that cannot be repeated cannot be believed."""
    first = run(database, spec(trials=12))
    database.storage.delete_study(database.storage.get_study_id_from_name("s"))
    Records(database.engine).delete_study("s")
    for trial in first:
        (trial_folder("s", trial.number) / "rung").unlink(missing_ok=True)
    second = run(database, spec(trials=12))
    assert [(t.params, t.state, t.user_attrs[REASON]) for t in first] == [
        (t.params, t.state, t.user_attrs[REASON]) for t in second
    ]


def test_a_stopped_search_pauses_at_the_next_rung_and_goes_on_from_there(database):
    """`hpo stop` must cost no training that was paid for, and no trial of the budget."""
    control = Control(database.engine, "s")

    def stopping(values, folder, report):
        def heard(reached):
            control.stop("rung")
            report(reached)

        return played(values, folder, heard)

    joined = search(database, spec(trials=3, kind="none"), stopping)
    assert list(joined.run_all()) == [TrialState.WAITING]
    (paused,) = joined.study.trials
    assert paused.last_step == RUNGS[0]
    shot = snapshot(database, spec(trials=3))
    assert (shot.states, shot.spent, shot.running) == ({"paused": 1}, 0, 0)

    trials = run(database, spec(trials=3, kind="none"))
    assert [(trial.number, trial.state) for trial in trials] == [(n, TrialState.COMPLETE) for n in range(3)]
    assert trials[0].params == paused.params
    assert len(Records(database.engine).rung_results("s")) == 9


def test_the_cost_budget_pauses_what_runs_at_its_next_rung(database):
    """A trial of hours must not train on for long after its money is spent."""
    study = spec(trials=9, kind="none")
    study = study.model_copy(update={"search": study.search.model_copy(update={"cost_minutes": 30 / 60})})
    trials = run(database, study)
    assert [(trial.state, trial.last_step) for trial in trials] == [(TrialState.WAITING, RUNGS[1])]
    assert snapshot(database, study).ended_by == "0.5 minutes of cost"


def changed(study, **search):
    """The study with other values in its [search], checked as a study file is."""
    dumped = study.model_dump(mode="json")
    return parse_spec(dumped | {"search": dumped["search"] | search})


def test_known_good_configurations_are_tried_first_once_and_with_the_rest_sampled(database):
    """What worked last month should not have to be found again; a second launch must not try it twice."""
    study = changed(spec(trials=4, kind="none"), start=[{"outer_lr": 0.0005}, {"outer_lr": 0.0007, "head": "all"}])
    register(database, study, "fingerprint")
    trials = run(database, study)
    assert [trial.params["outer_lr"] for trial in trials][:2] == [0.0005, 0.0007]
    assert trials[1].params["head"] == "all"
    assert len(trials) == 4
    assert len({trial.params["outer_lr"] for trial in trials}) == 4


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"outer_lr": 0.5}, r"start, entry 1: outer_lr = 0.5 lies outside its domain, 0.0001 to 0.001"),
        ({"outer_rate": 0.5}, "unknown parameter 'outer_rate'; did you mean 'outer_lr'"),
        ({"learner": "maml"}, "learner = 'maml' lies outside its domain, one of protonet"),
    ],
)
def test_a_start_outside_the_space_is_refused(start, message):
    """Optuna would take it, warn in a log, and try something else."""
    with pytest.raises(InputError, match=message):
        changed(spec(), start=[start])


def test_a_warm_start_tries_another_studys_best_first(database):
    """Last month's study on the same catalogue is the best guess there is."""
    older = spec(trials=6, kind="none").model_copy(update={"name": "older"})
    for _ in search(database, older).run_all():
        pass
    found = optuna.load_study(storage=database.storage, study_name="older").trials
    best = sorted((trial.params["outer_lr"] for trial in found), reverse=True)[:2]
    trials = run(database, changed(spec(trials=4, kind="none"), warm_start="older", warm_start_trials=2))
    assert [trial.params["outer_lr"] for trial in trials][:2] == best
    assert trials[0].user_attrs["warm start"].endswith(" of older")


def test_a_warm_start_that_cannot_help_is_refused(database):
    """Silently starting cold would look as if it had not helped."""
    with pytest.raises(InputError, match="there is no study 'nobody'"):
        register(database, changed(spec(), warm_start="nobody"), "f")
    with pytest.raises(InputError, match="is the study itself"):
        register(database, changed(spec(), warm_start="s"), "f")


def test_a_worker_on_other_scenes_is_refused_before_its_first_trial(database):
    """Means over other scenes rank nothing; at trial 40 it would be too late."""
    run(database, spec(trials=2))
    with pytest.raises(InputError, match=r"holds recalls on 2 validation scenes, these are on 1 \('cheese' is only"):
        Search(database, spec(trials=2), ("tea",), played)


def test_scenes_that_change_between_rungs_are_refused(database):
    """Written down, such a result would stop every worker of the study for good; compared, it would rank nothing."""

    def train(values, folder, report):
        report(RungReport(0, 10, 0.5, dict.fromkeys(SCENES, 0.5), 10.0))
        report(RungReport(1, 30, 0.5, {"tea": 0.5}, 30.0))

    joined = search(database, spec(trials=2), train)
    assert joined.run_next() == TrialState.FAIL
    assert "cannot be compared" in joined.study.trials[0].user_attrs[ERROR]
    assert [(result.trial, result.rung) for result in Records(database.engine).rung_results("s")] == [(0, 0)]
    assert joined.run_next() == TrialState.PRUNED, "the study still runs: second of two at the first rung"


def _killed(url, study):
    joined = search(connect(url), study)
    record = joined._record

    def recorded(number, reached):
        record(number, reached)
        os.kill(os.getpid(), signal.SIGKILL)  # after the report, before the decision

    joined._record = recorded
    joined.run_next()


@pytest.mark.slow
def test_a_worker_killed_between_report_and_decision_leaves_a_trial_that_counts_once(database):
    """The rung is recorded, nobody decided: who goes on must be judged by it, not counted beside it."""
    study = spec(trials=1)
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(database.url, study))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    records = Records(database.engine)
    assert [(result.trial, result.rung) for result in records.rung_results("s")] == [(0, 0)]
    trials = run(database, study)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE]
    assert [(result.trial, result.rung) for result in records.rung_results("s")] == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.slow
def test_a_search_goes_on_after_the_database_was_restarted(tmp_path):
    """Pools keep dead connections: the next decision must neither fail nor forget what was recorded."""
    server = EmbeddedPostgres(tmp_path / "server")
    database = connect(server.start())
    try:
        joined = search(database, spec(trials=6))
        assert [joined.run_next() is not None for _ in range(3)] == [True] * 3
        server.stop()
        server.start()
        assert len(list(joined.run_all())) >= 3
        assert len(chains(joined.study.trials)) == 6
        assert joined._results.read().reached(0) == 6
    finally:
        database.engine.dispose()
        server.stop()
        shutil.rmtree(server.folder)


def _work(url, study, worker):
    for _ in search(connect(url), study).run_all():
        time.sleep(0.01 * worker)


@pytest.mark.slow
def test_several_workers_keep_the_budget_and_take_nothing_up_twice(database):
    """Two workers that continue one trial would train it twice and write one checkpoint."""
    study = spec(trials=24)
    register(database, study, "fingerprint")
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_work, args=(database.url, study, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    known = chains(optuna.load_study(storage=database.storage, study_name="s").trials)
    assert len(known) == 24
    for chain in known.values():
        assert all(trial.state == TrialState.PRUNED for trial in chain[:-1])
        steps = [trial.last_step for trial in chain]
        assert steps == sorted(set(steps)), "each continuation gets farther"
    results = Records(database.engine).rung_results("s")
    best = sorted((r for r in results if r.rung == 0), key=lambda r: -r.recall)[:8]
    on = {r.trial for r in results if r.rung == 1}
    assert {r.trial for r in best} <= on, "whoever is in the top third in the end has gone on"


def test_with_records_the_pruner_judges_by_them_in_any_script(database):
    """A retried trial has another number in Optuna: by the records it is still one."""
    records = Records(database.engine)
    records.save_study("plain", {}, "f")
    pruner = RecallPruner(RUNGS, records=records)
    study = optuna.create_study(storage=database.storage, study_name="plain", direction="maximize", pruner=pruner)
    for number, recall in enumerate([0.5, 0.4, 0.3, 0.1]):
        trial = study.ask()
        records.record_rung(RungResult("plain", number, 0, 10, recall, {}, 1.0))
        trial.report(recall, 10)
        assert trial.should_prune() == (number > 0)
    trial = study.ask()
    trial.report(0.9, 10)
    with pytest.raises(ValueError, match="no recorded result at rung 1"):
        trial.should_prune()

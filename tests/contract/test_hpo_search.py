"""A search on a real PostgreSQL with simulated training: which trials are pruned, promoted, finished and counted."""

import math
import multiprocessing
import os
import re
import shutil
import signal
import time
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from hpo.lifecycle import check_startable, delete
from hpo.ownership import owned_search
from hpo.registry import check_launch, register
from hpo.search.loop import Search
from hpo.search.pruner import RecallPruner
from hpo.search.start_points import WARM_START
from hpo.search.trial_chains import CONTINUES, CONTROL_GROUP, DEFAULT, ERROR, REASON, chain_of, chains, spends_budget
from hpo.status.snapshot import snapshot
from storage.database.control import Control
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import connect
from storage.database.records import Records, RungResult
from storage.errors import InputError
from studies.config.search_domains import Range
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
    """Return the recall of a simulated training: better with a higher learning rate, and a little at every rung."""
    return values.outer_lr * 300 + rung * 0.01


def simulated(values, folder, report, recall=recall_of):
    """Train nothing; keep a checkpoint as real training does, and report its last rung again on resuming."""
    marker = folder / "rung"
    done = int(marker.read_text()) if marker.exists() else -1
    folder.mkdir(parents=True, exist_ok=True)
    for rung in range(max(done, 0), len(RUNGS)):
        value = recall(values, rung)
        marker.write_text(str(rung))
        report(RungReport(rung, RUNGS[rung], value, dict.fromkeys(SCENES, value), float(RUNGS[rung])))
    return value


def latest(trials):
    """Return the last trial of each chain."""
    return [chain[-1] for chain in chains(trials).values()]


def search(database, study, train=simulated):
    register(database, study, "fingerprint")
    return Search(database, study, SCENES, train)


def run(database, study, train=simulated):
    joined = search(database, study, train)
    for _ in joined.run_all():
        pass
    return joined.study.get_trials(deepcopy=False)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("asha", r"^recall@10 0\.\d+ ranks .*; the top \d+ (is|are) promoted$"),
        (
            "improvement",
            r"^recall@10 0\.\d+ at rung \d of 3; (a chance of .*% to end above|\d of the 4 trials)",
        ),
    ],
)
def test_a_search_prunes_most_trials_and_finishes_the_best(database, rule, reason):
    """This is what a pruner is for."""
    study = spec(trials=27, rule=rule)
    trials = run(database, study)
    known = chains(trials)
    assert len(known) == 27
    finished = [chain[-1] for chain in known.values() if chain[-1].state == TrialState.COMPLETE]
    best = max(trials, key=lambda trial: trial.params["outer_lr"])
    assert chain_of(best) in {chain_of(trial) for trial in finished}
    assert 2 <= len(finished) < 14
    pruned = [chain[-1] for chain in known.values() if chain[-1].state == TrialState.PRUNED]
    assert all(re.search(reason, trial.user_attrs[REASON]) for trial in pruned)
    results = Records(database.engine).rung_results("s")
    assert len({(result.trial, result.rung) for result in results}) == len(results)


def test_a_promoted_trial_resumes_from_its_checkpoint_as_one_chain(database):
    """Its second place is promoted once enough worse trials have arrived; training it anew would cost twice."""
    recalls, begun = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.05]), {}

    def recall(values, rung):
        if values.outer_lr not in begun:
            begun[values.outer_lr] = next(recalls)
        return begun[values.outer_lr]

    folders = []

    def train(values, folder, report):
        folders.append(folder)
        return simulated(values, folder, report, recall)

    trials = run(database, spec(trials=6), train)
    pruned, promoted = chains(trials)[1][:2]
    assert (pruned.state, pruned.last_step) == (TrialState.PRUNED, RUNGS[0])
    assert (promoted.user_attrs[CONTINUES], promoted.last_step) == (1, RUNGS[1])
    assert promoted.params == pruned.params
    assert promoted.intermediate_values[RUNGS[0]] == 0.4, "the whole curve in one trial"
    assert folders.count(owned_search(database, "s").trial_folder(1)) == len(chains(trials)[1]), (
        "every part of it from one checkpoint"
    )
    shot = snapshot(database, spec(trials=6))
    assert [view.chain for view in shot.trials] == sorted(chains(trials))
    assert len(shot.trials) == shot.spent == 6
    assert shot.cost_seconds == sum(max(t.intermediate_values) for t in latest(trials)), (
        "what it cost before counts once"
    )


def test_as_many_trials_finish_as_there_are_finalists(database):
    """A handful of trials at eta 3 would leave a single winner, which luck may have promoted."""
    trials = run(database, spec(trials=3))
    assert sum(trial.state == TrialState.COMPLETE for trial in latest(trials)) == 2


def test_a_search_has_not_ended_while_a_pruned_trial_is_to_be_promoted(database):
    """Between two trials nothing runs for a moment: taken for the end, the report would come too early."""
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


def test_a_diverged_trial_is_pruned_at_once_and_stays_pruned(database):
    """Promoted it would diverge again, for ever."""
    trials = run(database, spec(trials=3), lambda v, f, r: simulated(v, f, r, lambda values, rung: math.nan))
    assert [trial.state for trial in trials] == [TrialState.PRUNED] * 3
    assert "diverged" in trials[0].user_attrs[REASON]


def test_the_control_group_finishes_and_is_counted_in_the_snapshot(database):
    """Its trials show whether pruning loses good ones."""
    study = spec(trials=9, keep=1.0)
    trials = run(database, study)
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    control_group = [trial for trial in trials if CONTROL_GROUP in trial.user_attrs]
    shot = snapshot(database, study)
    assert len(shot.control_group) == len(control_group) > 0
    finished = sorted(trials, key=lambda trial: -trial.value)
    assert {t.number for t in shot.false_prunes(3)} == {t.number for t in finished[:3] if CONTROL_GROUP in t.user_attrs}


def test_nothing_is_promoted_once_the_cost_is_spent(database):
    """A continuation that no worker runs would leave a search that never ends."""
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
    second = run(database, spec(trials=12))
    assert [(t.params, t.state, t.user_attrs[REASON]) for t in first] == [
        (t.params, t.state, t.user_attrs[REASON]) for t in second
    ]


def test_a_stopped_search_pauses_at_the_next_rung_and_resumes_from_there(database):
    """`hpo stop` must cost no training that was paid for, and no trial of the budget."""
    control = Control(database.engine, "s")

    def stopping(values, folder, report):
        def stop_and_report(reached):
            control.stop("rung")
            report(reached)

        return simulated(values, folder, stop_and_report)

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
    """A trial of hours must not train on for long after the budget is spent."""
    study = spec(trials=9, kind="none")
    study = study.model_copy(update={"search": study.search.model_copy(update={"cost_minutes": 30 / 60})})
    trials = run(database, study)
    assert [(trial.state, trial.last_step) for trial in trials] == [(TrialState.WAITING, RUNGS[1])]
    assert snapshot(database, study).ended_by == "0.5 minutes of cost"


def changed(study, **search):
    """The study with other values in its [search], checked as a study file is."""
    dumped = study.model_dump(mode="json")
    return parse_spec(dumped | {"search": dumped["search"] | search})


def test_known_good_configurations_are_tried_early_once_and_with_the_rest_sampled(database):
    """Last month's best should not have to be found again; a second launch must not try it twice."""
    study = changed(spec(trials=5, kind="none"), start=[{"outer_lr": 0.0005}, {"outer_lr": 0.0007, "head": "all"}])
    register(database, study, "fingerprint")
    trials = run(database, study)
    assert [trial.params["outer_lr"] for trial in trials][1:3] == [0.0005, 0.0007]
    assert trials[2].params["head"] == "all"
    assert len(trials) == 5
    assert len({trial.params["outer_lr"] for trial in trials}) == 5


def test_the_default_configuration_is_tried_first_once_and_to_its_end(database):
    """What searching is worth is measured against it: pruned or tried twice, it would tell nothing or cost twice."""
    study = spec(trials=5, rule="asha")

    def train(values, folder, report):
        return simulated(values, folder, report, lambda values, rung: abs(values.outer_lr - 0.00055))

    joined = search(database, study, train)
    default = joined._queue.ask(joined._budget)
    others = search(database, study, train)
    assert others.run_next() == TrialState.COMPLETE
    assert others.run_next() is not None
    joined._queue.tell(default, joined.objective(default))
    trials = run(database, study, train)
    assert [DEFAULT in trial.user_attrs for trial in latest(trials)] == [True] + [False] * 4
    assert trials[0].params == study.search.default_point()
    assert trials[0].params["outer_lr"] == pytest.approx(0.00055)
    assert CONTROL_GROUP in trials[0].user_attrs, "its rank is the last"


def test_the_default_configuration_takes_no_trial_from_starting_points(database):
    """Who asks for one trial of a known configuration gets that one; with more trials the default follows."""
    study = changed(spec(trials=1, kind="none"), start=[{"outer_lr": 0.0005}])
    assert [trial.params["outer_lr"] for trial in run(database, study)] == [0.0005]
    more = run(database, changed(spec(trials=3, kind="none"), start=[{"outer_lr": 0.0005}]))
    assert [DEFAULT in trial.user_attrs for trial in more] == [False, True, False]


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


def older(database, **changes):
    """Run a study to start others from; it prunes most of its trials."""
    return run(database, changed(spec(trials=16), **changes).model_copy(update={"name": "older"}))


def started(trials):
    """Return the trials that an older study proposed, once each."""
    return [trial for trial in trials if WARM_START in trial.user_attrs and CONTINUES not in trial.user_attrs]


def test_a_warm_start_tries_another_studys_best_first_and_then_what_its_trials_promise(database):
    """Last month's study on the same catalogue is the best guess there is, and says more than its best trials."""
    rates = sorted(trial.params["outer_lr"] for trial in older(database))
    trials = run(database, changed(spec(trials=8), warm_start="older", warm_start_trials=5, seed=3))
    assert DEFAULT in trials[0].user_attrs
    best, *promising = started(trials)
    assert best.number == 1
    assert best.params["outer_lr"] == rates[-1]
    assert best.user_attrs[WARM_START].startswith("the best trial of older, ")
    assert len(promising) == 4
    assert all(trial.params["outer_lr"] > rates[-5] for trial in promising)
    assert {trial.user_attrs[WARM_START] for trial in promising} == {"the most promising of 64, by 16 trials of older"}
    assert len(chains(trials)) == 8


def test_a_further_launch_queues_what_it_asks_for_in_addition(database):
    """Promoted trials are the same trials, and an older study that is gone has said what it had to say."""
    older(database)
    study = changed(spec(trials=7), warm_start="older", warm_start_trials=5)
    trials = run(database, study)
    assert any(CONTINUES in trial.user_attrs and WARM_START in trial.user_attrs for trial in trials)
    more = changed(study, trials=12, warm_start_trials=7)
    again = run(database, more)
    assert len(started(again)) == 7
    assert [trial.params for trial in started(again)[:5]] == [trial.params for trial in started(trials)]
    delete(database, "older")
    register(database, changed(more, trials=14), "fingerprint")
    for name in ("older", "never"):
        late = changed(study, warm_start=name).model_copy(update={"name": "late"})
        with pytest.raises(InputError, match=f"there is no study '{name}'"):
            register(database, late, "fingerprint")
    assert "late" not in Records(database.engine).study_names()


def test_studies_that_start_from_each_other_try_other_configurations(database):
    """On the same data, the same configuration is the same training."""
    older(database)
    second = changed(spec(trials=8), warm_start="older").model_copy(update={"name": "second"})
    tried = {trial.params["outer_lr"] for trial in started(run(database, second))[1:]}
    third = changed(spec(trials=8), warm_start="second").model_copy(update={"name": "third"})
    again = {trial.params["outer_lr"] for trial in started(run(database, third))[1:]}
    assert tried
    assert again
    assert not tried & again


@pytest.mark.parametrize("trials", [1, 3, 6])
def test_a_warm_start_and_starting_points_spend_no_more_than_the_budget(database, trials):
    """Pruned trials that are promoted at its end make room for no new one."""
    older(database)
    starts = [{"outer_lr": rate / 1e4} for rate in range(1, 9)]
    for name, changes in (("warm", {"warm_start": "older"}), ("starts", {"start": starts})):
        study = changed(spec(trials=trials), **changes).model_copy(update={"name": name})
        found = chains(run(database, study)).values()
        assert sum(map(spends_budget, found)) == trials, name
        assert sum(chain[-1].state == TrialState.COMPLETE for chain in found) >= min(trials, 2), name


def test_new_classes_are_searched_from_recorded_trials_where_no_older_study_is_named(database):
    """What is good for one catalogue is mostly good for another; half of the budget is left to find out."""
    labels = parse_spec(
        {"name": "s", "task": "classification", "data": {"source": "completejourney"}, "search": {"trials": 9}}
    )

    def queued(study):
        register(database, study, "f")
        return owned_search(database, study.name).open().get_trials()

    first, *promising = queued(labels)
    assert DEFAULT in first.user_attrs
    assert len(promising) == 4
    assert {trial.user_attrs[WARM_START] for trial in promising} == {"the most promising of 64, by 200 recorded trials"}
    points = [trial.system_attrs["fixed_params"] for trial in promising]
    assert all(point["class_names"] == "read" and point["trainable_layers"] > 0 for point in points)
    assert len({point["outer_lr"] for point in points}) == 4
    for name, changes in (
        ("none", {"warm_start_trials": 0}),
        ("other", {"space": {"learner": "reptile"}, "trials": 3}),
    ):
        study = labels.model_dump(mode="json") | {"name": name}
        study["search"] = {"trials": 9} | changes
        assert len(queued(parse_spec(study))) == 1 + bool(changes.get("space"))
    known = {"name": "known", "protocol": {"classes": "known"}, "search": {"trials": 9}}
    assert len(queued(parse_spec(labels.model_dump(mode="json", exclude={"protocol", "search"}) | known))) == 1


def test_a_study_that_began_before_there_were_recorded_trials_goes_on_as_it_began(database):
    """A resumed search is the same search."""
    raw = {"name": "s", "task": "classification", "data": {"source": "completejourney"}}
    register(database, parse_spec(raw | {"search": {"trials": 9, "warm_start_trials": 0}}), "f")
    register(database, parse_spec(raw | {"search": {"trials": 9}}), "f")
    assert len(owned_search(database, "s").open().get_trials()) == 1


def test_a_warm_start_learns_from_a_space_that_differs(database):
    """Its best configuration may not be allowed any more, and others may be searched in addition."""
    rates = [trial.params["outer_lr"] for trial in older(database)]
    lower = Range(low=1e-4, high=min(max(rates), 9e-4) - 1e-5)
    space = spec().search.space | {"outer_lr": lower, "head": ["scalars", "all"]}
    study = changed(spec(trials=5), space=space, warm_start="older", warm_start_trials=3)
    found = started(run(database, study))
    assert len(found) == 3
    assert all("most promising" in trial.user_attrs[WARM_START] for trial in found)
    assert all(trial.params["outer_lr"] > 7e-4 for trial in found)
    assert all(trial.params["head"] in ("scalars", "all") for trial in found)


def test_a_warm_start_that_cannot_help_is_refused(database):
    """Ignored without an error, it would look as if it had not helped."""
    with pytest.raises(InputError, match="there is no study 'unknown'"):
        register(database, changed(spec(), warm_start="unknown"), "f")
    with pytest.raises(InputError, match="is the study itself"):
        register(database, changed(spec(), warm_start="s"), "f")
    labels = {"task": "classification", "name": "labels", "data": {"source": "completejourney"}}
    register(database, parse_spec(labels), "f")
    with pytest.raises(InputError, match="that study is of classification, this one of ranking"):
        register(database, changed(spec(), warm_start="labels"), "f")
    register(database, spec().model_copy(update={"name": "new"}), "f")
    with pytest.raises(InputError, match="that study has no finished trial"):
        register(database, changed(spec(), warm_start="new"), "f")
    older(database)
    others = changed(spec(), space=spec().search.space | {"learner": "anil"}, warm_start="older")
    with pytest.raises(InputError, match="searched none of this one's learners, anil; add one"):
        check_launch(database, others)


def test_a_worker_on_other_scenes_is_refused_before_its_first_trial(database):
    """Means over other scenes rank nothing; at trial 40 it would be too late."""
    run(database, spec(trials=2))
    with pytest.raises(InputError, match=r"holds recalls on 2 validation scenes at rung 1, these are on 1 \('cheese' "):
        Search(database, spec(trials=2), ("tea",), simulated)
    labels = {"task": "classification", "name": "s", "data": {"source": "completejourney"}}
    with pytest.raises(InputError, match="on 2 validation episodes at rung 1, these are on 1"):
        Search(database, parse_spec(labels), ("tea",), simulated)


def test_the_status_and_the_workers_agree_on_whether_a_search_has_ended(database):
    """Both go by the recorded costs: else a search ends for who watches it while trials would still be promoted."""
    study = spec(trials=12)
    run(database, study)
    joined, records = search(database, study), Records(database.engine)
    assert snapshot(database, study).ended_by == "12 trials"
    assert joined.run_next() is None
    # Had the first rung cost nearly all of a trial, going on would be worth it at a small chance.
    for result in records.rung_results("s"):
        records.record_rung(replace(result, cost_seconds=1e9 + result.rung))
    assert snapshot(database, study).ended_by is None
    assert joined.run_next() is not None


def test_trials_are_compared_at_the_first_rung_on_fewer_scenes(database):
    """The scenes of the first rung are fewer than those that a worker joins with: neither may refuse the other."""
    scenes = [f"scene {number:02}" for number in range(20)]
    few = [f"scene {number:02}" for number in range(0, 20, 2)]

    def train(values, folder, report):
        for rung, step in enumerate(RUNGS):
            value = recall_of(values, rung)
            report(RungReport(rung, step, value, dict.fromkeys(scenes if rung else few, value), float(step)))
        return value

    study = spec(trials=6, first_rung_scenes=0.5)
    for _ in range(2):
        register(database, study, "fingerprint")
        for _ in Search(database, study, scenes, train).run_all():
            pass
        study = changed(study, trials=9)
    found = {(result.rung, len(result.scene_recalls)) for result in Records(database.engine).rung_results("s")}
    assert found == {(0, 10), (1, 20), (2, 20)}


def test_scenes_that_change_between_rungs_are_refused(database):
    """Recorded, such a result would stop every worker of the study for good; compared, it would rank nothing."""

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
    """The rung is recorded but not decided on: the retry must replace that result, not count beside it."""
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
def test_a_search_continues_after_the_database_was_restarted(tmp_path):
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
@pytest.mark.parametrize("rule", ["asha", "improvement"])
def test_several_workers_keep_the_budget_and_promote_no_trial_twice(database, rule):
    """Two workers that continue one trial would train it twice and write one checkpoint."""
    study = spec(trials=24, rule=rule)
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
    promoted = {r.trial for r in results if r.rung == 1}
    if rule == "asha":
        assert {r.trial for r in best} <= promoted, "all that are in the top third in the end"
    assert known[best[0].trial][-1].state == TrialState.COMPLETE


def test_with_records_the_pruner_judges_by_them_in_any_script(database):
    """A retried trial has another number in Optuna: by the records it is still one."""
    records = Records(database.engine)
    records.save_study("plain", {}, "f")
    pruner = RecallPruner(RUNGS, rule="asha", records=records)
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

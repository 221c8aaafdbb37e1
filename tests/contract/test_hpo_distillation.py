"""The distillation as an Optuna study on a real PostgreSQL: pruned, resumed, with a front, closed when it must be."""

import re
from functools import partial

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from distill.evaluation import StudentProgress
from distill.student_training import validation_recalls
from hpo.ownership import owned_distillation, owned_search
from hpo.registry import register
from hpo.results import distillation
from hpo.results.distillation import choose, distil, distil_study
from hpo.results.evaluation import text_free_recalls
from hpo.results.students import (
    EMBED_STEPS,
    TRAINING,
    Objectives,
    choose_student,
    create_distillation,
    dominates,
    extension,
    open_distillation,
    student_rows,
    students_wanted,
)
from hpo.search.budget import Budget
from hpo.search.loop import Search
from hpo.search.trial_chains import EXTENDS
from hpo.stages import EVALUATION
from hpo.status.console import Console
from storage.database.records import Records
from storage.errors import InputError
from studies.evaluation.intervals import Interval
from studies.training.objective import run_trial
from studies.training.prepare import prepare
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec


def study(database, folder, search=2, **distill):
    """A registered study with a finished search, ready to be distilled: its spec and problem."""
    spec = tiny_spec(
        tiny_encoder(folder / "encoder"),
        search={"trials": 2, "space": {"learner": ["protonet"], "trainable_layers": 0}},
        pruner={"kind": "recall", "eta": 2, "keep": 0.0, "rungs": [1, 2]},
        finalists={"count": 2, "draws": 1},
        distill={"embed_steps": 4, "rank_steps": 2, "labels_alone": False} | distill,
    )
    data = planted_dataset()
    problem = prepare(spec, folder / "cache", data=data)
    register(database, spec, data.fingerprint)
    scenes = {problem.data.scenes[episode.scene] for episode in problem.validation}
    work = Search(database, spec, scenes, partial(run_trial, problem))
    for _ in range(search):
        work.run_next()
    return spec, problem


def run(database, spec, problem):
    winners = choose(database, spec, problem, Console())
    found = distil(database, spec, problem, winners.teachers, Console())
    return found.student, found.trial


@pytest.mark.slow
def test_students_are_pruned_by_their_recall_and_the_best_is_chosen(database, tmp_path):
    """Without the pruner's decisions every hopeless student would train to its end."""
    spec, problem = study(database, tmp_path, trials=6, space={"layers": [1, 2]})
    student, number = run(database, spec, problem)
    trials = open_distillation(database, spec).get_trials()
    assert len(trials) == 6
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert trials[number].value == max(trial.value for trial in complete)
    assert student.hyperparameters.layers == trials[number].params["layers"]
    assert any(trial.state == TrialState.PRUNED for trial in trials)
    for trial in trials:
        assert set(trial.intermediate_values) <= set(spec.distill.rungs)
        assert trial.user_attrs["reason"]
    rows = student_rows(open_distillation(database, spec), spec)
    assert [row.trial for row in rows if row.taken] == [number]
    assert any(row.front and row.recall == rows[number].recall for row in rows)
    # Teachers answered once, and a rerun trains nothing more.
    assert len(list(owned_distillation(database, spec.name).folder.glob("targets-*"))) == 1
    assert run(database, spec, problem)[1] == number
    assert len(open_distillation(database, spec).get_trials()) == 6


@pytest.mark.slow
def test_several_objectives_give_a_front_and_the_fastest_that_is_good_enough(database, tmp_path):
    """Pruned by recall alone, the cheap end of the front would be missing."""
    spec, problem = study(
        database, tmp_path, trials=4, objectives=["recall", "latency", "size"], retain=0.5, space={"layers": [1, 2]}
    )
    _, number = run(database, spec, problem)
    found = open_distillation(database, spec)
    trials = found.get_trials()
    assert all(trial.state == TrialState.COMPLETE and len(trial.values) == 3 for trial in trials)
    assert found.metric_names == [f"recall@{spec.protocol.k}", "latency", "size"]
    rows = student_rows(found, spec)
    assert {row.trial for row in rows if row.front} == {trial.number for trial in found.best_trials}
    enough = [t for t in trials if t.values[0] >= 0.5 * max(t.values[0] for t in trials)]
    assert number == min(enough, key=lambda trial: trial.values[1]).number


@pytest.mark.slow
def test_an_interrupted_distillation_goes_on_as_the_same_trial(database, tmp_path, monkeypatch):
    """Ctrl-C in the middle of a student must cost no more than the steps since its last rung."""
    from distill.trainer import Distiller

    spec, problem = study(database, tmp_path, trials=1)
    train_to, steps = Distiller.train_to, []

    def interrupted(self, step, progress=None):
        if step > 4:
            raise KeyboardInterrupt
        train_to(self, step, progress)

    monkeypatch.setattr(Distiller, "train_to", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(database, spec, problem)

    def counted(self, step, progress=None):
        steps.append((self.step, step))
        train_to(self, step, progress)

    monkeypatch.setattr(Distiller, "train_to", counted)
    _, number = run(database, spec, problem)
    assert (number, steps) == (0, [(4, 6)])
    (trial,) = open_distillation(database, spec).get_trials()
    assert trial.state == TrialState.COMPLETE
    assert set(trial.intermediate_values) == set(spec.distill.rungs)
    # The rungs before the interruption count too, and the teacher's scenes are those of the search.
    (row,) = student_rows(open_distillation(database, spec), spec)
    assert row.training.first_step == spec.distill.rungs[0]
    assert row.training.texts == len(problem.visible_items)
    assert row.training.texts_read == 4 * min(row.params["batch_size"], row.training.texts)
    floor = float(np.mean(list(text_free_recalls(problem).values()))) if row.training.measure == "lift" else 0.0
    best = problem.evaluate(choose(database, spec, problem, Console()).teachers[0].learner, problem.validation).mean()
    assert row.training.kept.mean == pytest.approx((row.recall - floor) / (best - floor))


def test_a_search_without_a_finished_trial_has_nothing_to_distil(database, tmp_path):
    """The user must hear it before the data are read for minutes."""
    spec, _ = study(database, tmp_path, search=0)
    with pytest.raises(InputError, match="no finished trial to take teachers from"):
        distil_study(database, spec, Console())


@pytest.mark.slow
def test_a_teacher_whose_checkpoint_was_altered_or_lost_is_refused(database, tmp_path):
    """A student of damaged weights looks like any other."""
    spec, problem = study(database, tmp_path)
    folder = owned_search(database, spec.name).trial_folder(0)
    weights = max(folder.glob("step-*")) / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(str(folder))):
        choose(database, spec, problem, Console())
    weights.unlink()
    with pytest.raises(InputError, match=re.escape(str(folder))):
        choose(database, spec, problem, Console())


@pytest.mark.slow
def test_a_study_whose_test_scenes_were_scored_takes_no_more_students(database, tmp_path):
    """Students tried after the test scenes were seen would be chosen with them in view."""
    spec, problem = study(database, tmp_path, trials=1)
    run(database, spec, problem)
    Records(database.engine).finish_stage(spec.name, EVALUATION, {"student_trial": 0})
    assert len(distil_study(database, spec, Console())) == 1
    more = spec.model_copy(update={"distill": spec.distill.model_copy(update={"trials": 2})})
    with pytest.raises(InputError, match="scored once"):
        distil_study(database, more, Console())


def test_a_distillation_without_a_finished_student_says_so(database, tmp_path):
    """All pruned or failed: there is nothing to export, and the reason is in the trials."""
    spec, _ = study(database, tmp_path, search=0)
    found = create_distillation(database, spec)
    with pytest.raises(InputError, match="has no finished student"):
        choose_student(found, spec)
    assert student_rows(found, spec) == ()


def test_of_students_of_equal_recall_the_smallest_is_taken(database, tmp_path):
    """A larger one that was tried first would be exported for nothing."""
    spec, _ = study(database, tmp_path, search=0)
    found = create_distillation(database, spec)
    for recall, size in ((0.5, 0.4), (0.5, 0.2), (0.5, 0.2), (0.4, 0.1)):
        found.add_trial(optuna.trial.create_trial(value=recall, user_attrs={"latency": 0.3, "size": size}))
    assert choose_student(found, spec).number == 1
    assert [row.taken for row in student_rows(found, spec)] == [False, True, False, False]


def progress(kept):
    """How far a student that still rises has come."""
    kept, gained = Interval(mean=kept, low=kept - 0.1, high=kept + 0.1), Interval(mean=0.1, low=0.05, high=0.15)
    figures = {"texts": 100, "texts_read": 200, "measure": "lift", "first_step": 1}
    return StudentProgress(kept=kept, gained=gained, undertrained=kept.high < 0.95, **figures)


def test_a_student_below_its_teacher_is_extended_until_it_is_not_or_gains_nothing(database, tmp_path):
    """A shop's first student kept 48 % of its teacher where one of more steps keeps 93 %."""
    spec, _ = study(database, tmp_path, search=0, trials=2)
    found = create_distillation(database, spec)

    def add(recall, kept, attributes=None):
        attributes = {TRAINING: progress(kept).to_json(), "latency": 0.3, "size": 0.2} | (attributes or {})
        found.add_trial(optuna.trial.create_trial(value=recall, user_attrs=attributes))

    add(0.2, 0.3)
    add(0.3, 0.5)
    first = extension(found, spec)
    assert first == {EXTENDS: 1, EMBED_STEPS: 3 * spec.distill.embed_steps}
    add(0.4, 0.88, first)
    second = extension(found, spec)
    assert second == {EXTENDS: 2, EMBED_STEPS: 9 * spec.distill.embed_steps}
    assert students_wanted(spec.distill, found.get_trials()) == 3
    once = spec.model_copy(update={"distill": spec.distill.model_copy(update={"extensions": 1})})
    assert extension(found, once) is None
    add(0.39, 0.8, second)
    more = spec.model_copy(update={"distill": spec.distill.model_copy(update={"extensions": 9})})
    assert extension(found, more) is None, "the longest training was no better"
    add(0.5, 0.91)
    assert extension(found, more) is None, "the chosen student is within the noise of its teacher"
    rows = student_rows(found, spec)
    assert [(row.extends, row.embed_steps) for row in rows[2:4]] == [(1, 12), (2, 36)]


def test_a_waiting_extension_runs_though_more_students_ran_than_are_wanted_now(database, tmp_path):
    """Never run, it would leave a student that is said to have been trained longer in vain."""
    spec, _ = study(database, tmp_path, search=0, trials=2)
    found = create_distillation(database, spec)
    while found.get_trials(states=[TrialState.WAITING]):
        found.tell(found.ask(), 0.1)
    for _ in range(3):
        found.add_trial(optuna.trial.create_trial(value=0.2))
    assert Budget(2).spent(found.get_trials()) == "2 trials"
    found.enqueue_trial({}, user_attrs={EXTENDS: 1})
    assert Budget(2).spent(found.get_trials()) is None


@pytest.mark.slow
def test_an_extension_trains_the_chosen_student_for_more_steps_and_is_chosen_if_better(database, tmp_path, monkeypatch):
    """The control on labels alone gets as many steps; one of an earlier choice is not taken for it."""
    spec, problem = study(database, tmp_path, trials=1, labels_alone=True, extensions=1, space={"lr": 1e-3})
    monkeypatch.setattr(distillation, "student_progress", lambda *given: recorded.append(given) or undertrained)
    recorded, undertrained = [], progress(0.5)
    _, number = run(database, spec, problem)
    trials = open_distillation(database, spec).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert trials[0].params == trials[1].params
    assert trials[1].user_attrs[EXTENDS] == 0
    assert trials[1].user_attrs["latency"] == trials[0].user_attrs["latency"], "noise would choose between them"
    assert number == (1 if trials[1].value > trials[0].value else 0)
    steps = [max(recalls) for recalls, *_ in recorded]
    assert steps == [4 + 2, 12 + 2]
    assert min(recorded[1][0]) == steps[0], "compared with the shorter training"
    assert [read for *_, read, _ in recorded][1] == 3 * recorded[0][-2]
    folder = owned_distillation(database, spec.name).folder / f"without-teacher-{number}" / "rate-0"
    assert max(validation_recalls(folder)) == steps[number]
    assert run(database, spec, problem)[1] == number
    assert len(open_distillation(database, spec).get_trials()) == 2


def test_a_student_dominates_when_it_is_nowhere_worse_and_somewhere_better():
    """Equal students must not throw each other off the front."""
    one = Objectives(recall=0.5, latency=0.2, size=0.2)
    assert not dominates(one, one)
    assert dominates(one, one._replace(latency=0.3))
    assert not dominates(one, one._replace(latency=0.3, recall=0.6))

"""A study's evaluation from its models: every system scored, stored as JSON, and read back from an export."""

import json
from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial

from distill.evaluation import Finalist, Finalists, StudentRow, StudyEvaluation
from distill.export.manifest import EncoderReference, Lineage, Origin
from distill.objective import Teacher
from hpo.ownership import OwnedStudy
from hpo.results.evaluation import Distilled, Winners, evaluate_all
from hpo.results.exported import origin
from hpo.results.search_start import SearchStart, _unfinished
from hpo.search.trial_chains import DEFAULT, ERROR, REASON
from studies.config.hyperparameters import Hyperparameters
from studies.training.prepare import prepare
from tests.served import untrained
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

VALUES = Hyperparameters(learner="anil", inner_lr=0.05, inner_steps=1)
PLAIN = Hyperparameters(learner="finetune", inner_lr=0.05, inner_steps=1)
START = Hyperparameters(learner="protonet")
STUDY_ID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyEvaluation, Origin]:
    """The evaluation of a study of which nothing was trained, and what its export says of its origin."""
    folder: Path = tmp_path_factory.mktemp("study")
    spec = tiny_spec(tiny_encoder(folder / "bert"))
    problem = prepare(spec, folder / "cache", data=planted_dataset())
    finalist = Finalist(trial=4, searched=0.4, redrawn=0.3, recall=0.35)
    winners = Winners(
        teachers=[Teacher(4, 0.35, problem.learner(VALUES))],
        fine_tuned=Teacher(2, 0.3, problem.learner(PLAIN)),
        finalists=Finalists(draws=1, ranked=(finalist,), optimism=0.1),
    )
    row = {"state": "complete", "recall": 0.3, "latency": 0.5, "size": 0.5, "params": {"layers": 1}, "reason": None}
    students = [StudentRow(trial=n, front=n == 1, taken=n == 1, **row) for n in range(2)]
    student = untrained(problem, VALUES)
    start = SearchStart(Teacher(0, 0.2, problem.learner(START)), Teacher(2, 0.3, problem.learner(PLAIN)))
    distilled = Distilled(student, 1, untrained(problem, VALUES), None)
    evaluation = evaluate_all(spec, problem, winners, distilled, students, start=start)
    # Its database is not asked.
    students_study = OwnedStudy(None, "tiny-distill", "tiny", id=STUDY_ID, files="fedcba98")
    return evaluation, origin(spec, problem, evaluation, students_study, student)


def test_every_system_is_scored_and_the_json_is_read_back_as_it_was(evaluated: tuple[StudyEvaluation, Origin]) -> None:
    """Hours of work end in this one object."""
    evaluation, _ = evaluated
    kinds = {name: system.kind for name, system in evaluation.systems.items()}
    assert evaluation.best_teacher == "teacher 4 (anil)"
    assert kinds["teacher 4 (anil)"] == "teacher"
    assert kinds["teacher 4 (anil), not adapted"] == "direct transfer"
    assert kinds["trial 2 (finetune)"] == "fine-tuning"
    assert kinds["student"] == "student"
    assert kinds["student, untrained"] == "untrained"
    recalls = {name: system.scene_recalls for name, system in evaluation.systems.items()}
    assert recalls["student, untrained"] == recalls["student"]  # of this study nothing was trained
    assert evaluation.student_trial == 1
    assert evaluation.systems["support popularity"].over_reference.mean == 0
    assert {len(system.scene_recalls) for system in evaluation.systems.values()} == {evaluation.scenes}
    assert all(system.by_shots.keys() == set(evaluation.curve.shots) for system in evaluation.systems.values())
    stored = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert StudyEvaluation.model_validate(stored) == evaluation
    assert {"from", "until"} <= stored["data"].keys()
    assert stored["data"]["split_by"] == "hash"


def test_the_best_trial_is_compared_with_the_start_of_the_search(evaluated: tuple[StudyEvaluation, Origin]) -> None:
    """On the same test episodes, each trial scored once, whatever else it is."""
    evaluation, _ = evaluated
    gain, best = evaluation.search_gain, evaluation.systems[evaluation.best_teacher].scene_recalls
    assert evaluation.systems["default, trial 0 (protonet)"].kind == "start of the search"
    assert gain.default is not None
    assert gain.first is not None
    assert (gain.default.system, gain.first.system) == ("default, trial 0 (protonet)", "trial 2 (finetune)")
    for compared in (gain.default, gain.first):
        before = evaluation.systems[compared.system].scene_recalls
        expected = sum(best[name] - before[name] for name in best) / len(best)
        assert compared.gain is not None
        assert compared.gain.mean == pytest.approx(expected)


@pytest.mark.parametrize(
    ("state", "attributes", "said"),
    [
        (TrialState.FAIL, {ERROR: "OutOfMemory: too large"}, "trial 0 failed: OutOfMemory: too large"),
        (TrialState.PRUNED, {REASON: "training diverged"}, "trial 0 was stopped: training diverged"),
        (TrialState.WAITING, {}, "trial 0 was not done when the search ended"),
    ],
)
def test_a_default_configuration_that_did_not_finish_is_explained(
    state: TrialState, attributes: dict[str, str], said: str
) -> None:
    """Left out without a word it would look as if there were none."""
    trial = create_trial(state=state, user_attrs={DEFAULT: True, **attributes})
    trial.number = 0
    other = create_trial(value=0.5)
    other.number = 1
    assert _unfinished({0: [trial], 1: [other]}) == said
    assert _unfinished({1: [other]}) == "it was not tried: the starting points took all trials"


def test_an_export_names_the_trial_and_the_teachers_of_its_student(evaluated: tuple[StudyEvaluation, Origin]) -> None:
    """Who finds an export years later must find its study."""
    evaluation, found = evaluated
    assert (found.study, found.study_id) == ("tiny", STUDY_ID)
    assert found.lineage == Lineage(distillation="tiny-distill", trial=1, teachers=evaluation.teachers)
    assert isinstance(found.encoder, EncoderReference)
    assert Origin.model_validate(json.loads(json.dumps(found.to_json()))) == found

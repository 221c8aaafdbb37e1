"""What the result says in words must follow from its figures, whichever way they fall."""

import pytest

from distill.evaluation import StudentRow
from distill.export.card import retention_sentence as retention_of_the_card
from hpo.reporting.renderers.terminal import print_blocks
from hpo.reporting.sections.background import retention_sentence
from hpo.reporting.sections.outcome import distillation_outcome, job_outcome
from hpo.reporting.sections.students import students_table, undertrained_sentences
from hpo.reporting.task_words import RANKING
from hpo.results.outcome import JobResult
from hpo.results.summary import Scored, retention
from hpo.results.undertraining import student_progress
from hpo.status.console import Console, duration
from studies.evaluation.baselines import TEXT_FREE
from studies.evaluation.metrics import Evaluation, SceneMetrics
from tests.report_document import TEACHER, document, interval


def result(low, high, lift):
    """What a job could have found, its best teacher that far from support popularity."""
    evaluation, search = document()["evaluation"], document()["search"]
    evaluation["systems"][TEACHER]["over_reference"] = {"mean": (low + high) / 2, "low": low, "high": high}
    bounds = {"recall": interval(0.957), "lift": lift and interval(lift)}
    evaluation["retention"] |= {"lift": lift, "teacher_lift": interval(0.0, 0.1), "intervals": bounds}
    del search["history"], search["importance"]
    return {
        "study": "quickstart",
        "evaluation": evaluation,
        "search": search,
        "export": "/somewhere/student",
        "report": "/somewhere/report.html",
    }


def printed(found, capsys):
    """What `hpo run` prints of a result."""
    print_blocks(job_outcome(JobResult.model_validate(found)), Console())
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.01, 0.09, "beats support popularity"), (-0.09, -0.01, "loses to"), (-0.01, 0.05, "within the noise")],
)
def test_the_verdict_follows_the_interval(low, high, words, capsys):
    """A report that always says "beats" would be believed once."""
    shown = printed(result(low, high, 0.9), capsys)
    assert words in shown
    assert "pruning saved 67%" in shown
    assert "1.94×" in shown
    assert "/somewhere/student" in shown
    assert "/somewhere/report.html" in shown


def test_it_says_what_pruning_may_have_lost_and_what_re_evaluating_the_finalists_changed(capsys):
    """False prunes and luck are what a user cannot see in any table."""
    found = result(0.01, 0.09, 0.9)
    shown = " ".join(printed(found, capsys).split())
    assert "2 trials of the control group ran to the end although the rule would have stopped them" in shown
    assert "trial 9 ended among the best 4" in shown
    assert "trial 4, no longer leads, trial 9 does; +0.0042 of its lead" in shown
    found["search"] |= {"control_group": [2], "false_prunes": []}
    assert "although the rule would have stopped it, to measure what pruning loses: none ended" in printed(
        found, capsys
    )
    found["search"]["control_group"] = []
    assert "No trial of the control group has finished" in printed(found, capsys)


def test_systems_are_listed_by_rising_recall(capsys):
    """The database returns them in an order of its own."""
    shown = printed(result(0.01, 0.09, 0.9), capsys)
    names = ["random", "support popularity", "teacher 4 (fomaml)", TEACHER]
    places = [shown.index(f"\n {name}  ") for name in names]
    assert places == sorted(places)


def recalls(*values):
    """A system with that recall in each scene."""
    return Scored("any", Evaluation({f"scene {n}": SceneMetrics(value) for n, value in enumerate(values)}), {})


def test_a_student_keeps_a_part_of_a_lift_that_is_surely_there():
    """Recall alone flatters a student."""
    results = {"random": recalls(0.1, 0.1, 0.1), "support popularity": recalls(0.4, 0.3, 0.2)}
    results |= {"teacher": recalls(0.5, 0.42, 0.28), "student": recalls(0.45, 0.36, 0.24)}
    kept = retention(results, "teacher", "student", TEXT_FREE)
    assert kept.baseline == "support popularity"
    assert kept.recall == kept.intervals.recall.mean == pytest.approx(1.05 / 1.2)
    assert kept.lift == kept.intervals.lift.mean == pytest.approx(0.5)
    assert kept.teacher_lift.mean == pytest.approx(0.1)
    said = retention_sentence(kept)
    assert said.startswith("The student keeps 87.5% [85.7%, 90.0%] of the best teacher's recall; 50% [50%, 50%] of its")


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ((0.55, 0.28, 0.19), "not distinguishable from zero: +0.040 [-0.020, +0.150]"),
        ((0.4, 0.3, 0.2), "not distinguishable from zero: +0.000 [+0.000, +0.000]"),
        ((0.35, 0.28, 0.1), "below zero: -0.057 [-0.100, -0.020]"),
    ],
)
def test_no_part_of_a_lift_within_noise_is_kept(teacher, words):
    """A student that "keeps 187% of its lift" of +0.004 [-0.014, +0.021] keeps any number at all."""
    results = {"support popularity": recalls(0.4, 0.3, 0.2), "student": recalls(0.5, 0.35, 0.23)}
    kept = retention(results | {"teacher": recalls(*teacher)}, "teacher", "student", TEXT_FREE)
    assert (kept.lift, kept.intervals.lift) == (None, None)
    assert kept.to_json()["lift"] is None
    sentence = retention_sentence(kept)
    assert f"the teacher's lift over support popularity is {words}." in sentence
    assert sentence.count("%") == 3, "a percentage of the lift"
    card = retention_of_the_card(kept)
    assert words in card
    assert card.count("%") == 1


def progress(first, last, teacher=(0.7, 0.6, 0.5, 0.4), floor=0.2, read=2240, texts=19_312):
    """How far a student's training has come, of its recalls per scene at two rungs; a baseline has `floor` in all."""

    def scenes(values):
        return {f"scene {n}": value for n, value in enumerate(values)}

    return student_progress({20: scenes(first), 70: scenes(last)}, scenes(teacher), scenes([floor] * 4), read, texts)


@pytest.mark.parametrize(
    ("found", "measure", "undertrained"),
    [
        # Half of the lift is missing, and two thirds of the recall are there.
        (progress((0.3, 0.3, 0.3, 0.2), (0.45, 0.4, 0.34, 0.3)), "lift", True),
        # It read all texts and stopped improving: more steps are not what it lacks.
        (progress((0.45, 0.4, 0.34, 0.3), (0.45, 0.4, 0.34, 0.3), read=20_000), "lift", False),
        # It read all texts of a small catalogue and improves.
        (progress((0.3, 0.3, 0.3, 0.2), (0.45, 0.4, 0.34, 0.3), texts=300), "lift", True),
        # As good as its teacher, or within the noise of it, however few steps it had.
        (progress((0.3, 0.3, 0.3, 0.2), (0.7, 0.61, 0.5, 0.39)), "lift", False),
        (progress((0.3, 0.3, 0.3, 0.2), (0.5, 0.7, 0.5, 0.4)), "lift", False),
        # The teacher's lift is within noise: its recall remains to be compared with.
        (progress((0.1, 0.1, 0.1, 0.1), (0.3, 0.3, 0.25, 0.2), floor=0.54), "recall", True),
        (progress((0.1, 0.1, 0.1, 0.1), (0.7, 0.6, 0.5, 0.38), floor=0.54), "recall", False),
    ],
)
def test_a_student_is_undertrained_if_it_keeps_too_little_and_more_steps_would_help(found, measure, undertrained):
    """70 steps kept 48 % of a teacher, 460 kept 94 %, and nothing was said."""
    assert (found.measure, found.undertrained) == (measure, undertrained)


def test_a_teacher_without_recall_says_nothing_of_a_students_training():
    """A ratio to zero would call every student undertrained, or none."""
    assert progress((0.0,) * 4, (0.0,) * 4, teacher=(0.0,) * 4) is None
    one = {"tea": 0.1}
    assert student_progress({5: one, 9: one}, one, one, 10, 20) is None, "one scene"


def shown_table(rows, capsys):
    print_blocks([students_table("Students", rows, "recall@10")], Console())
    return capsys.readouterr().out


def test_an_undertrained_student_is_told_of_with_the_remedy(capsys):
    """A user who reads 48 % takes distillation for useless, where steps are missing."""
    found = progress((0.3, 0.3, 0.3, 0.2), (0.45, 0.4, 0.34, 0.3))
    row = {"state": "complete", "recall": 0.17, "latency": 0.5, "size": 0.5, "params": {}, "reason": None}
    taken = StudentRow(trial=3, front=True, taken=True, training=found, **row)
    assert StudentRow.model_validate(taken.to_json()) == taken
    print_blocks(
        distillation_outcome([StudentRow(trial=2, front=False, taken=False, **row), taken], "recall@10", RANKING),
        Console(),
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert "Student 3 was trained too little: it keeps 49% [48%, 50%] of the best teacher's lift over what" in shown
    assert "still gained +0.098 [+0.055, +0.138] recall beyond 20 steps" in shown
    assert "Its steps read 2,240 texts, of 19,312 that it could read: raise distill.embed_steps." in shown
    longer = StudentRow(trial=4, front=False, taken=False, extends=3, embed_steps=600, **row)
    assert undertrained_sentences([taken, longer], "recall@10", RANKING)[0].endswith("give it more layers or width.")
    assert "embed_steps = 600" in shown_table([taken, longer], capsys)
    running = longer.model_copy(update={"state": "running"})
    assert undertrained_sentences([taken, running], "recall@10", RANKING) == []
    failed = longer.model_copy(update={"state": "fail"})
    assert undertrained_sentences([taken, failed], "recall@10", RANKING)[0].endswith("raise distill.embed_steps.")
    enough = taken.model_copy(update={"training": found.model_copy(update={"undertrained": False})})
    assert undertrained_sentences([enough], "recall@10", RANKING) == []
    whole = result(0.01, 0.09, 0.9)
    assert "trained too little" not in printed(whole, capsys)
    whole["evaluation"]["students"][1]["training"] = found.to_json()
    assert "raise distill.embed_steps" in " ".join(printed(whole, capsys).split())


def test_no_part_of_a_recall_of_zero_is_kept():
    """A share of nothing would be infinite, or 100% of it."""
    results = {name: recalls(0.0, 0.0, 0.0) for name in ("support popularity", "teacher", "student", TEXT_FREE)}
    kept = retention(results, "teacher", "student", TEXT_FREE)
    assert (kept.recall, kept.lift) == (None, None)
    assert "%" not in retention_sentence(kept) + retention_of_the_card(kept)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (12_000, "3 h 20 min"), (float("nan"), "unknown")],
)
def test_durations_read_as_people_say_them(seconds, words):
    """Time left is looked at most of all."""
    assert duration(seconds) == words

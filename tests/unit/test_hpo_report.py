"""What the result says in words must follow from its figures, whichever way they fall."""

import pytest

from hpo.reporting.renderers.terminal import print_blocks
from hpo.reporting.sections.outcome import job_outcome
from hpo.results.outcome import JobResult
from hpo.results.summary import Scored, retention
from hpo.status.console import Console, duration
from studies.evaluation.metrics import Evaluation, SceneMetrics
from tests.report_document import TEACHER, document, interval


def result(low, high, lift):
    """What a job could have found, its best teacher that far from support popularity."""
    evaluation, search = document()["evaluation"], document()["search"]
    evaluation["systems"][TEACHER]["over_reference"] = {"mean": (low + high) / 2, "low": low, "high": high}
    evaluation["retention"] |= {"lift": lift, "intervals": {"recall": interval(0.957), "lift": None}}
    del search["history"]
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
    assert "2 trials of the control group ran to the end although their rank would have stopped them" in shown
    assert "trial 9 ended among the best 4" in shown
    assert "trial 4, no longer leads, trial 9 does; +0.0042 of its lead" in shown
    found["search"] |= {"control_group": [2], "false_prunes": []}
    assert "although its rank would have stopped it, to measure what pruning loses: none ended" in printed(
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


def test_a_teacher_without_lift_has_none_to_keep(capsys):
    """Dividing by a lift of zero would print any number at all."""

    def recalls(value):
        return Scored("any", Evaluation({name: SceneMetrics(value) for name in "ab"}), {})

    results = {"random": recalls(0.1), "support popularity": recalls(0.4), "student": recalls(0.45)}
    kept = retention(results | {"teacher": recalls(0.5)}, "teacher", "student")
    assert kept.baseline == "support popularity"
    assert kept.recall == pytest.approx(0.9)
    assert kept.lift == pytest.approx(0.5)
    assert retention(results | {"teacher": recalls(0.4)}, "teacher", "student").lift is None
    assert "no lift to keep" in printed(result(-0.1, 0.1, None), capsys)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (12_000, "3 h 20 min"), (float("nan"), "unknown")],
)
def test_durations_read_as_people_say_them(seconds, words):
    """Time left is looked at most of all."""
    assert duration(seconds) == words

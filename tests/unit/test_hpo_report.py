"""What the result says in words must follow from its figures, whichever way they fall."""

import pytest

from hpo.reporting.terminal import print_result
from hpo.results.summary import Scored, retention
from hpo.status.console import Console, duration
from studies.evaluation.metrics import Evaluation, SceneMetrics


def system(recall, low, high):
    interval = {"mean": recall, "low": recall - 0.1, "high": recall + 0.1}
    return {
        "kind": "any",
        "recall": interval,
        **{metric: {"mean": 0.1, "low": 0.0, "high": 0.2} for metric in ("ndcg", "mrr", "hit_rate")},
        "new_item_recall": None,
        "over_popularity": {"mean": (low + high) / 2, "low": low, "high": high},
    }


def result(low, high, lift):
    encoder = {"parameters": 2e6, "bytes": 8e6, "items_per_second": 100.0}
    student = {"parameters": 1e6, "bytes": 4e6, "items_per_second": 400.0}
    return {
        "evaluation": {
            "k": 10,
            "shots": 5,
            "scenes": 7,
            "part": "test",
            "best_teacher": "teacher 3 (anil)",
            "systems": {"teacher 3 (anil)": system(0.5, low, high), "support popularity": system(0.4, 0, 0)},
            "finalists": {
                "draws": 3,
                "optimism": 0.004,
                "ranked": [
                    {"trial": 3, "searched": 0.4, "redrawn": 0.41, "recall": 0.4075},
                    {"trial": 1, "searched": 0.41, "redrawn": 0.39, "recall": 0.395},
                ],
            },
            "retention": {"baseline": "support popularity", "recall": 0.98, "lift": lift},
            "inference": {"teacher": encoder, "student": student},
        },
        "search": {
            "trials": 4,
            "states": {"complete": 3, "pruned": 1},
            "cost_seconds": 60,
            "unpruned_seconds": 80,
            "control_group": [1, 3],
            "false_prunes": [3],
            "best": 2,
        },
        "export": "/somewhere/student",
        "report": "/somewhere/report.html",
    }


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.01, 0.09, "beats support popularity"), (-0.09, -0.01, "loses to"), (-0.01, 0.05, "within the noise")],
)
def test_the_verdict_follows_the_interval(low, high, words, capsys):
    """A report that always says "beats" would be believed once."""
    print_result(result(low, high, 0.9), Console())
    shown = capsys.readouterr().out
    assert words in shown
    assert "pruning saved 25%" in shown
    assert "4.00×" in shown
    assert "/somewhere/student" in shown
    assert "/somewhere/report.html" in shown


def test_it_says_what_pruning_may_have_lost_and_what_the_finalists_second_look_changed(capsys):
    """False prunes and luck are what a user cannot see in any table."""
    found = result(0.01, 0.09, 0.9)
    print_result(found, Console())
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 trials went to the end although the rank would have stopped" in shown
    assert "trial 3 ended among the best 2" in shown
    assert "trial 1, no longer leads, trial 3 does; +0.0040 of its lead" in shown
    found["search"] |= {"control_group": [], "false_prunes": []}
    del found["evaluation"]["finalists"]
    print_result(found, Console())
    assert "No trial was kept to the end" in capsys.readouterr().out


def test_systems_are_listed_by_rising_recall(capsys):
    """The database returns them in an order of its own."""
    print_result(result(0.01, 0.09, 0.9), Console())
    shown = capsys.readouterr().out
    assert shown.index("\n support popularity") < shown.index("\n teacher 3 (anil)")


def test_a_teacher_without_lift_has_none_to_keep(capsys):
    """Dividing by a lift of zero would print any number at all."""

    def recalls(value):
        return Scored("any", Evaluation({name: SceneMetrics(value) for name in "ab"}), {})

    results = {"random": recalls(0.1), "support popularity": recalls(0.4), "student": recalls(0.45)}
    kept = retention(results | {"teacher": recalls(0.5)}, "teacher", "student")
    assert kept["baseline"] == "support popularity"
    assert kept["recall"] == pytest.approx(0.9)
    assert kept["lift"] == pytest.approx(0.5)
    assert retention(results | {"teacher": recalls(0.4)}, "teacher", "student")["lift"] is None
    print_result(result(-0.1, 0.1, None), Console())
    assert "no lift to keep" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (12_000, "3 h 20 min"), (float("nan"), "unknown")],
)
def test_durations_read_as_people_say_them(seconds, words):
    """Time left is looked at most of all."""
    assert duration(seconds) == words

"""`hpo status` on real studies, with simulated training."""

import json

import pytest

from tests.mini import call
from tests.watched import searched, spec


@pytest.fixture
def study(database):
    """A finished search of two dozen trials."""
    made = spec("watched")
    searched(database, made)
    return made


def test_a_study_is_shown_with_its_budget_its_best_and_why_trials_stopped(database_url, study):
    """All that people ask a search for, without a browser."""
    shown = call("status", "watched", "--database", database_url).stdout
    assert "ended: 24 trials" in shown
    assert "best: recall@10" in shown
    assert "saved by pruning" in shown
    assert "a chance of" in shown
    assert "and 12 more trials" in shown
    everything = call("status", "watched", "--all", "--database", database_url).stdout
    assert "more trials" not in everything
    assert len(everything.splitlines()) >= 24


def test_a_finished_study_is_watched_to_its_end_at_once(database_url, study):
    """A script that waits for a search which has ended would wait for ever."""
    lines = call("status", "watched", "--watch", "--json", "--database", database_url).stdout.splitlines()
    assert [json.loads(line)["finished"] for line in lines] == [True]
    watched = call("status", "watched", "--watch", "--database", database_url)
    assert watched.stderr.startswith("search: 24 of 24 trials")
    assert "\x1b" not in watched.stdout + watched.stderr


def test_all_studies_are_listed_for_people_and_for_scripts(database, database_url, study):
    """Who has forgotten a study's name finds it here."""
    searched(database, spec("another", trials=4))
    shown = call("status", "--database", database_url).stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["study", "watched", "another"]
    told = [json.loads(line) for line in call("status", "--json", "--database", database_url).stdout.splitlines()]
    assert [shot["name"] for shot in told] == ["watched", "another"]
    refused = call("status", "--watch", "--database", database_url)
    assert (refused.returncode, "give its name" in refused.stderr) == (2, True)

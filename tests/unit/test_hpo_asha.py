"""What all rules of the pruner share, and ASHA: which trials are pruned at a rung, and which are promoted later."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.pruning.asha import Asha
from hpo.pruning.rules import completion
from hpo.pruning.rules import decide as decide_by
from hpo.pruning.rung_history import RungHistory


def decide(history, trial, rung, *, eta, **options):
    """Decide by ASHA."""
    return decide_by(Asha(eta), history, trial, rung, **options)


def promotion(history, pruned, *, eta, metric="recall"):
    """Promote by ASHA."""
    return Asha(eta).promotion(history, pruned, metric)


recalls = st.floats(0, 1, allow_nan=False)


def history(values, rungs=3, rung=0):
    """Return a history of trials 0, 1, … with these recalls at one rung."""
    made = RungHistory(range(1, rungs + 1))
    for trial, value in enumerate(values):
        made.add(trial, rung, value)
    return made


@given(st.lists(recalls, min_size=1, max_size=30), st.integers(2, 5), st.randoms())
def test_order_of_arrival_does_not_change_a_decision(values, eta, random):
    """A decision that depended on which trial came first would make searches with several workers unrepeatable."""
    shuffled = list(enumerate(values))
    random.shuffle(shuffled)
    other = RungHistory([1, 2, 3])
    for trial, value in shuffled:
        other.add(trial, 0, value)
    for trial in range(len(values)):
        assert decide(history(values), trial, 0, eta=eta) == decide(other, trial, 0, eta=eta)


@given(st.lists(recalls, min_size=1, max_size=40), st.integers(2, 5))
def test_exactly_the_best_one_in_eta_of_a_full_rung_is_promoted(values, eta):
    """Rounded up, ties by number: an off-by-one here wastes or loses trials at every rung."""
    full = history(values)
    kept = [trial for trial in range(len(values)) if not decide(full, trial, 0, eta=eta).prune]
    order = sorted(range(len(values)), key=lambda trial: (-values[trial], trial))
    assert kept == sorted(order[: Asha(eta).quota(len(values))])
    assert len(kept) == math.ceil(len(values) / eta)


@given(st.lists(recalls, min_size=1, max_size=40), st.integers(2, 5))
def test_pruning_on_arrival_and_promoting_later_keeps_the_same_trials_as_waiting_for_all(values, eta):
    """A trial that was pruned too early must be promoted later: otherwise the order of arrival decides the search."""
    growing, promoted, pruned = RungHistory([1, 2]), set(), set()
    for trial, value in enumerate(values):
        growing.add(trial, 0, value)
        (pruned if decide(growing, trial, 0, eta=eta).prune else promoted).add(trial)
    while found := promotion(growing, pruned, eta=eta):
        pruned.remove(found.trial)
        promoted.add(found.trial)
    assert promoted >= set(growing.top(0, Asha(eta).quota(len(values))))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), recalls), max_size=40))
def test_a_result_that_is_given_again_replaces_the_earlier_one(results):
    """A retried trial counted twice would push others out of the top."""
    repeated, last = RungHistory([1, 2, 3]), {}
    for trial, rung, value in results:
        repeated.add(trial, rung, value)
        last[trial, rung] = value
    for rung in range(3):
        assert [repeated.has(trial, rung) for trial in range(6)] == [(trial, rung) in last for trial in range(6)]
        values = {trial: value for (trial, at), value in last.items() if at == rung}
        assert repeated.reached(rung) == len(values)
        assert repeated.top(rung, 99) == sorted(values, key=lambda trial: (-values[trial], trial))
        for place, trial in enumerate(repeated.top(rung, 99), start=1):
            assert repeated.rank(trial, rung) == place


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_diverged_trial_is_pruned_at_once_and_never_promoted(value):
    """NaN compares as neither better nor worse: without its own rule it would train on, or be promoted."""
    made = history([value, 0.2, 0.1])
    decision = decide(made, 0, 0, eta=3, control=True)
    assert (decision.prune, decision.by_rule) == (True, False)
    assert decision.reason == f"recall is {value} at rung 1 of 3: training diverged"
    assert made.reached(0) == 2
    assert promotion(made, {0}, eta=2) is None
    assert completion(made, {0}, finished=0, wanted=3) is None


def test_a_recall_replaced_by_nan_no_longer_ranks():
    """A retry that diverges must take the place of what it repeats."""
    made = history([0.9, 0.1])
    made.add(0, 0, math.nan)
    assert made.top(0, 9) == [1]


def test_reasons_give_figure_rank_and_how_many_are_promoted():
    """The reason is all that a user sees of a decision."""
    made = history([0.5] * 3 + [0.31] + [0.4] * 8)
    reason = "recall@10 0.3100 ranks 12 of 12 at rung 1 of 3; the top 4 are promoted"
    assert decide(made, 3, 0, eta=3, metric="recall@10").reason == reason
    assert decide(made, 3, 0, eta=3).by_rule
    control = decide(made, 3, 0, eta=3, control=True)
    assert (control.prune, control.by_rule) == (False, True)
    assert control.reason.endswith("; the top 4 are promoted; kept in the no-prune control group")
    assert decide(made, 0, 0, eta=3).reason == "recall 0.5000 ranks 1 of 12 at rung 1 of 3; the top 4 are promoted"
    two = history([0.5, 0.4])
    assert decide(two, 1, 0, eta=3).reason.endswith("ranks 2 of 2 at rung 1 of 3; the top 1 is promoted")


def test_nothing_is_pruned_at_the_last_rung():
    """A finished trial marked as pruned would be lost to the choice of winners."""
    last = decide(history([0.9, 0.1], rung=2), 1, 2, eta=2)
    assert (last.prune, last.by_rule) == (False, False)


def test_the_trial_nearest_to_its_end_is_promoted_first():
    """Promoting at low rungs first would finish nothing until everything has begun."""
    made = history([0.1, 0.2, 0.9, 0.8])
    for trial, value in enumerate([0.5, 0.4, 0.3]):
        made.add(trial, 1, value)
    found = promotion(made, {0, 1, 3}, eta=2, metric="recall@10")
    assert (found.trial, found.rung) == (0, 1)
    assert found.reason == "promoted: recall@10 0.5000 now ranks 1 of 3 at rung 2 of 3; the top 2 are promoted"
    assert promotion(made, {3}, eta=2).trial == 3
    assert promotion(made, {}, eta=2) is None


def test_a_trial_that_has_reached_a_higher_rung_is_not_promoted_at_a_lower_one():
    """It would be trained twice from the same checkpoint."""
    made = history([0.9, 0.8, 0.1])
    made.add(0, 1, 0.1)
    made.add(1, 1, 0.2)
    assert promotion(made, {0}, eta=3) is None


def test_a_small_search_finishes_as_many_trials_as_are_wanted():
    """Sixteen trials at eta 3 leave one at the end: too few teachers to choose from."""
    made = history([0.1, 0.4, 0.3, 0.2])
    made.add(1, 1, 0.1)
    found = completion(made, {0, 1, 2, 3}, finished=1, wanted=2)
    assert (found.trial, found.rung) == (1, 1)
    assert completion(made, {0, 2, 3}, finished=1, wanted=2).trial == 2
    assert completion(made, {0, 1, 2, 3}, finished=2, wanted=2) is None
    assert completion(made, {}, finished=0, wanted=2) is None

"""The rule by probability of improvement: forecasts, the chance to be best, and what a new trial is worth."""

import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import BayesianRidge

from hpo.pruning.forecast import Forecast
from hpo.pruning.improvement import FIRST, Chances, Improvement
from hpo.pruning.rules import decide
from hpo.pruning.rung_history import RungHistory

STEPS = (10, 30, 90)
RESUMES = Improvement(resumes=True)


def history(*trials, seconds=None):
    """Return a history of trials 0, 1, … with these recalls at their rungs, and these seconds at each."""
    made = RungHistory(STEPS)
    for number, recalls in enumerate(trials):
        for rung, recall in enumerate(recalls):
            made.add(number, rung, recall, None if seconds is None else seconds[rung])
    return made


def test_a_forecast_follows_the_gains_of_many_trials():
    """An independent regression gives the same end and the same noise once the prior weighs nothing."""
    rng = np.random.default_rng(0)
    first = rng.uniform(0.2, 0.4, 4000)
    second = 0.1 + 0.9 * first + rng.normal(0, 0.01, len(first))
    third = 0.05 + 1.0 * second + rng.normal(0, 0.005, len(first))
    forecast = Forecast(history(*np.stack([first, second, third], 1).tolist()))
    mean, deviation = forecast.ends(np.array([0.25, 0.35]), 0)
    fitted = BayesianRidge().fit(first[:, None], third)
    expected, spread = fitted.predict(np.array([[0.25], [0.35]]), return_std=True)
    assert mean == pytest.approx(expected, abs=5e-4)
    assert deviation == pytest.approx(spread, rel=0.02)


def test_before_any_trial_has_gone_on_the_end_is_expected_where_a_trial_stands():
    """The first decisions are made then: they follow the recalls, with half of the spread between trials as noise."""
    recalls = [0.1, 0.2, 0.3, 0.4]
    mean, deviation = Forecast(history(*([recall] for recall in recalls))).ends(np.array(recalls), 1)
    assert mean.tolist() == recalls
    assert deviation == pytest.approx([np.std(recalls) / 2] * 4)


def test_the_chance_is_that_of_ending_above_the_best_finished_trial():
    """A chance to beat the second best would keep trials that cannot win."""
    made = history([0.3, 0.35, 0.4], [0.2, 0.3, 0.35], [0.25], [0.1])
    chances = Chances(made)
    assert chances.best == 0.4
    mean, deviation = Forecast(made).ends(np.array([0.25]), 0)
    assert chances.of(0.25, 0) == pytest.approx(norm.sf(0.4, mean[0], deviation[0]))


def test_a_new_trial_is_worth_what_those_so_far_would_be_if_they_began_again():
    """The best number of trials to go on with is found by trying every one."""
    trials = [[0.3, 0.35, 0.4], [0.2, 0.3, 0.35], [0.25], [0.1], [0.28], [math.nan]]
    made = history(*trials, seconds=[5.0, 9.0, 21.0])
    chances = Chances(made)
    of_each = sorted((chances.of(recalls[0], 0) for recalls in trials[:-1]), reverse=True)
    # Six trials pay five seconds for the first rung; from there sixteen more lead to the end.
    tried = [sum(of_each[:count]) / (6 * 5 / 16 + count) for count in range(1, 6)]
    assert chances.needed == pytest.approx(max(tried))


def test_where_rungs_say_little_of_the_end_more_trials_continue():
    """The rule has no quota: it has to follow the curves, or a flat landscape loses its best trials."""
    rng = np.random.default_rng(1)
    first = rng.uniform(0.3, 0.4, 60)

    def continuing(noise):
        ends = (first[:30] + rng.normal(0, noise, 30))[:, None]
        known = np.hstack([first[:30, None], ends, ends]).tolist()
        made = history(*known, *([recall] for recall in first[30:]))
        chances = Chances(made)
        return sum(chances.of(recall, 0) >= chances.needed for recall in first[30:])

    assert continuing(0.002) < continuing(0.1)


def test_the_first_trials_wait_for_each_other_and_the_best_of_them_is_promoted():
    """Judged alone, the first trial would run to the end whatever it is worth."""
    made = history(*([recall] for recall in [0.1, 0.3, 0.2]))
    waits = decide(RESUMES, made, 1, 0)
    assert (waits.prune, waits.by_rule) == (True, True)
    known = "3 of the 4 trials that a forecast needs have reached the first rung"
    assert waits.reason.endswith(f"{known}, and this one may be promoted later")
    assert RESUMES.promotion(made, {0, 1, 2}, "recall") is None
    made.add(3, 0, 0.15)
    found = RESUMES.promotion(made, {0, 1, 2, 3}, "recall")
    assert (found.trial, found.rung) == (1, 0)
    assert found.reason.startswith("promoted: recall 0.3000 at rung 1 of 3; a chance of ")


def test_where_nothing_can_be_promoted_later_the_first_trials_continue():
    """In a plain Optuna script a trial that waits never comes back."""
    alone = Improvement(resumes=False)
    made = history(*([recall] for recall in [0.1, 0.3, 0.2]))
    assert not decide(alone, made, 0, 0).prune
    for number, recall in enumerate([0.31, 0.32, 0.33, 0.01], start=3):
        made.add(number, 0, recall)
    assert decide(alone, made, 6, 0).prune
    assert not decide(alone, made, 5, 0).prune


def test_a_trial_waits_while_a_better_one_does():
    """A worker that goes on with the second best leaves the best one waiting."""
    made = history(*([recall] for recall in [0.30, 0.31, 0.305, 0.30, 0.309]))
    later = decide(RESUMES, made, 4, 0)
    assert later.prune
    assert later.reason.endswith("; trial 1 comes first, and this one may be promoted later")
    assert RESUMES.promotion(made, {0, 4}, "recall").trial == 4


def test_a_trial_without_a_chance_is_not_promoted_and_a_diverged_one_never():
    """Both would take the seconds of a new trial."""
    made = history(*([0.4, 0.5, 0.6] for _ in range(8)), [0.01], [0.4, math.nan], [math.nan])
    assert decide(RESUMES, made, 8, 0).prune
    assert RESUMES.promotion(made, {8, 9, 10}, "recall") is None
    assert decide(RESUMES, made, 10, 0) == decide(Improvement(resumes=False), made, 10, 0)
    assert not decide(RESUMES, made, 10, 0).by_rule


def test_the_order_of_arrival_changes_no_decision():
    """A search with several workers could not be repeated otherwise."""
    rng = np.random.default_rng(2)
    trials = [[float(value) for value in rng.uniform(0.2, 0.4, rng.integers(1, 4))] for _ in range(20)]
    results = [(number, rung, recall) for number, recalls in enumerate(trials) for rung, recall in enumerate(recalls)]
    other = RungHistory(STEPS)
    for place in rng.permutation(len(results)):
        other.add(*results[place])
    made = history(*trials)
    for number, recalls in enumerate(trials):
        assert decide(RESUMES, made, number, len(recalls) - 1) == decide(RESUMES, other, number, len(recalls) - 1)
    assert RESUMES.promotion(made, set(range(20)), "recall") == RESUMES.promotion(other, set(range(20)), "recall")


@pytest.mark.parametrize("recall", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seconds", [None, [0.0, 0.0, 0.0]])
def test_equal_recalls_and_costs_of_nothing_give_a_decision(recall, seconds):
    """A catalogue without a signal gives every trial one recall: no division by zero may stop a worker."""
    made = history(*([recall] * rungs for rungs in (3, 3, 2, 1, 1, 1)), seconds=seconds)
    for trial, rung in enumerate([2, 2, 1, 0, 0, 0]):
        assert isinstance(decide(RESUMES, made, trial, rung).reason, str)
    assert math.isfinite(Chances(made).needed)


def test_seconds_of_rungs_that_nobody_has_reached_follow_the_pace_so_far():
    """Four trials at the first rung are all that the first decision knows."""
    made = history(*([recall] for recall in [0.1, 0.2, 0.3, 0.4][:FIRST]), seconds=[5.0])
    chances = Chances(made)
    of_each = sorted((chances.of(recall, 0) for recall in [0.1, 0.2, 0.3, 0.4]), reverse=True)
    # Ten steps take 5 s, so the eighty that are left take 40 s.
    tried = [sum(of_each[:count]) / (4 * 5 / 40 + count) for count in range(1, 5)]
    assert chances.needed == pytest.approx(max(tried))


def test_what_is_left_is_told_by_the_pace_of_those_that_went_on_not_by_their_price():
    """Those that go on may be the cheap ones: at their own seconds the rest would look cheap for all."""
    made, alike = RungHistory(STEPS), RungHistory(STEPS)
    for number, (price, recalls) in enumerate([(1, [0.3, 0.35, 0.4]), (1, [0.2, 0.3]), (20, [0.25]), (20, [0.1])]):
        for rung, recall in enumerate(recalls):
            made.add(number, rung, recall, price * [5.0, 9.0, 21.0][rung])
            alike.add(number, rung, recall, [5.0, 9.0, 21.0][rung])
    assert Chances(made).needed == pytest.approx(Chances(alike).needed)

"""The pruner: a pure decision, and its adapter to Optuna."""

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.pruner import RecallPruner, decide

recalls = st.floats(0, 1, allow_nan=False)


@given(recalls, st.lists(recalls, max_size=30), st.integers(2, 5), st.randoms())
def test_order_of_arrival_does_not_change_the_decision(value, others, eta, random):
    """A decision that depended on who came first would make searches with several workers unrepeatable."""
    shuffled = list(others)
    random.shuffle(shuffled)
    assert decide(value, others, rung=0, eta=eta) == decide(value, shuffled, rung=0, eta=eta)


@given(st.lists(recalls, min_size=1, max_size=30, unique=True), st.integers(2, 5))
def test_the_best_of_a_rung_always_goes_on(values, eta):
    """Pruning the leader would lose the very trial the search is for."""
    best = max(values)
    others = [value for value in values if value != best]
    assert not decide(best, others, rung=0, eta=eta).prune


@given(st.lists(recalls, min_size=6, max_size=40, unique=True), st.integers(2, 5))
def test_exactly_the_top_share_of_a_full_rung_goes_on(values, eta):
    """With all results in, one in eta (rounded up) goes on: an off-by-one here wastes or loses trials at every rung."""
    if len(values) <= eta:
        return
    kept = [v for i, v in enumerate(values) if not decide(v, values[:i] + values[i + 1 :], rung=1, eta=eta).prune]
    assert kept == [v for v in values if v in sorted(values, reverse=True)[: math.ceil(len(values) / eta)]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_diverged_trial_stops_at_once(value):
    """NaN compares as neither better nor worse: without its own rule it would train to the end."""
    decision = decide(value, [], rung=0, eta=3, exempt=True)
    assert decision.prune
    assert "diverged" in decision.reason


def test_a_diverged_rival_does_not_count():
    """A NaN among the others must not make a rung look fuller than it is."""
    assert decide(0.1, [math.nan] * 10, rung=0, eta=3) == decide(0.1, [], rung=0, eta=3)


def test_too_few_results_prune_nobody():
    """The first arrivals have nothing to be judged by."""
    assert not decide(0.0, [0.9, 0.8], rung=0, eta=3).prune
    assert decide(0.0, [0.9, 0.8, 0.7], rung=0, eta=3).prune


def test_an_exempt_trial_is_kept_and_says_so():
    """The bracket that measures false prunes must survive ranks that would stop others."""
    decision = decide(0.0, [0.5] * 9, rung=2, eta=3, exempt=True)
    assert not decision.prune
    assert (
        decision.reason
        == "recall 0.0000 ranks 10 of 10 at rung 2; only the top 4 go on, but it is kept to measure false prunes"
    )


def _study(pruner):
    return optuna.create_study(direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(0))


def test_it_works_in_a_plain_optuna_script():
    """The pruner is offered to any Optuna user: it may need nothing of ours."""
    rungs = [1, 3, 9]
    study = _study(RecallPruner(rungs))

    def objective(trial):
        quality = trial.suggest_float("quality", 0, 1)
        for step in rungs:
            trial.report(quality, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return quality

    study.optimize(objective, n_trials=40)
    pruned = study.get_trials(states=[optuna.trial.TrialState.PRUNED])
    assert study.best_value == max(t.params["quality"] for t in study.trials)
    assert len(pruned) > 15


def test_between_rungs_and_at_the_last_nothing_is_pruned():
    """Comparing values at other steps with a rung's is what makes step-wise pruners unfair to slow starters."""
    pruner = RecallPruner([5, 10])
    study = _study(pruner)
    for _ in range(8):
        trial = study.ask()
        for step in (5, 10):
            trial.report(0.9, step)
        study.tell(trial, 0.9)
    weak = study.ask()
    for step in (4, 10):
        weak.report(0.0, step)
        assert not weak.should_prune()


def test_a_failed_trial_does_not_count_twice():
    """An interrupted trial leaves its values behind and its retry repeats them: counted twice they would bar others."""
    pruner = RecallPruner([1, 2], eta=2)
    study = _study(pruner)
    for _ in range(5):
        failed = study.ask()
        failed.report(0.9, 1)
        study.tell(failed, state=optuna.trial.TrialState.FAIL)
    trial = study.ask()
    trial.report(0.1, 1)
    assert not trial.should_prune()


@pytest.mark.parametrize("direction", ["minimize", ["maximize", "maximize"]])
def test_a_study_that_does_not_maximise_one_objective_is_refused(direction):
    """On a minimising study it would keep the worst trials without a word."""
    kind = {"directions": direction} if isinstance(direction, list) else {"direction": direction}
    study = optuna.create_study(**kind)
    trial = (
        optuna.trial.create_trial(value=0.0) if isinstance(direction, str) else optuna.trial.create_trial(values=[0, 0])
    )
    with pytest.raises(ValueError, match="maximises one objective"):
        RecallPruner([1]).prune(study, trial)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rungs": [1], "eta": 1}, "eta"),
        ({"rungs": []}, "rungs"),
        ({"rungs": [3, 1]}, "rungs"),
        ({"rungs": [1], "keep": 2}, "keep"),
    ],
)
def test_bad_settings_are_refused_at_the_start(arguments, message):
    """A wrong setting must not show at trial 40."""
    with pytest.raises(ValueError, match=message):
        RecallPruner(**arguments)


def test_the_kept_share_is_what_was_asked_for():
    """A bracket that is too small measures nothing; one that is too large saves nothing."""
    pruner = RecallPruner([1], keep=0.1)
    assert 70 < sum(map(pruner.exempt, range(1000))) < 130
    assert not any(map(RecallPruner([1], keep=0.0).exempt, range(100)))
    assert all(map(RecallPruner([1], keep=1.0).exempt, range(100)))

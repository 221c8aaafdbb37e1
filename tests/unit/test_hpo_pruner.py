"""The pruner in a plain Optuna script, without any of our tables."""

import math

import optuna
import pytest

from hpo.search.pruner import RecallPruner, in_control_group


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
        ({"rungs": [1], "rule": "best"}, "rule must be one of improvement, asha, got 'best'"),
    ],
)
def test_bad_settings_are_refused_at_the_start(arguments, message):
    """A wrong setting must not show at trial 40."""
    with pytest.raises(ValueError, match=message):
        RecallPruner(**arguments)


@pytest.mark.parametrize("recall", [-0.01, 1.01, 37.0])
def test_what_is_no_recall_is_refused_at_the_first_report(recall):
    """A loss reported by mistake would be maximised, a percentage compared with fractions."""
    study = _study(RecallPruner([1]))
    trial = study.ask()
    trial.report(recall, 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        trial.should_prune()


@pytest.mark.parametrize("recall", [math.nan, math.inf, -math.inf])
def test_a_diverged_trial_is_pruned_and_does_not_stop_the_script(recall):
    """Divergence is a result, not a mistake of the caller."""
    study = _study(RecallPruner([1, 2], keep=1.0))
    trial = study.ask()
    trial.report(recall, 1)
    assert trial.should_prune()


def test_the_control_group_has_the_given_fraction_and_follows_the_seed():
    """Too small a group measures nothing, too large a one saves nothing; one drawn anew compares nothing."""
    control = [in_control_group(number, 0.1, 0) for number in range(1000)]
    assert 70 < sum(control) < 130
    assert control == [in_control_group(number, 0.1, 0) for number in range(1000)]
    assert control != [in_control_group(number, 0.1, 1) for number in range(1000)]
    assert not any(in_control_group(number, 0.0, 0) for number in range(100))
    assert all(in_control_group(number, 1.0, 0) for number in range(100))

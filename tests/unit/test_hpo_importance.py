"""What matters in a search is told of all trials that were trained equally far, and of no fewer than are enough."""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.results.importance import importance
from hpo.results.outcome import ENOUGH_TRIALS
from hpo.search.trial_chains import CONTINUES

RUNGS = [5, 10]
DOMAINS = {
    "outer_lr": FloatDistribution(0, 1),
    "weight_decay": FloatDistribution(0, 1),
    "learner": CategoricalDistribution(["anil", "protonet"]),
    "head": CategoricalDistribution(["scalars"]),
    "anil.inner_steps": IntDistribution(1, 5),
}


def trial(number: int, step: int = 5, continues: int | None = None) -> FrozenTrial:
    """Return a stopped trial whose recall at a rung is its `outer_lr`; half of all have steps of their own."""
    learner = "anil" if number % 2 else "protonet"
    params = {"outer_lr": number * 17 % 50 / 50, "weight_decay": number / 100, "learner": learner, "head": "scalars"}
    if learner == "anil":
        params["anil.inner_steps"] = 1 + number % 5
    made = create_trial(
        state=TrialState.PRUNED,
        params=params,
        distributions={name: DOMAINS[name] for name in params},
        intermediate_values={step: params["outer_lr"]},
        user_attrs={} if continues is None else {CONTINUES: continues},
    )
    made.number = number
    return made


def test_a_parameter_that_decides_the_recall_has_most_of_the_importance() -> None:
    """One that was the same in all trials is left out; one of some trials alone is not."""
    found = importance([trial(number) for number in range(ENOUGH_TRIALS)], RUNGS)
    assert found is not None
    assert (found.step, found.trials) == (5, ENOUGH_TRIALS)
    assert set(found.shares) == {"outer_lr", "weight_decay", "learner", "anil.inner_steps"}
    assert found.shares["outer_lr"] > 0.6
    assert abs(sum(found.shares.values()) - 1) < 1e-9


def test_nothing_is_told_of_too_few_trials() -> None:
    """A promoted trial continues under another number, and is one configuration all the same."""
    few = [trial(number) for number in range(ENOUGH_TRIALS - 1)]
    assert importance(few, RUNGS) is None
    again = trial(ENOUGH_TRIALS, continues=0)
    assert importance([*few, again], RUNGS) is None


def test_trials_are_compared_at_the_last_rung_that_enough_have_reached() -> None:
    """Later recalls say more, but a handful of them say nothing."""
    early = [trial(number) for number in range(ENOUGH_TRIALS)]
    late = [trial(ENOUGH_TRIALS + number, step=10) for number in range(ENOUGH_TRIALS)]
    last, first = importance([*early, *late], RUNGS), importance([*early, *late[1:]], RUNGS)
    assert last is not None
    assert first is not None
    assert (last.step, first.step) == (10, 5)

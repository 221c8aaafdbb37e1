"""What an older study's trials say of a new one's configurations."""

import math

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpo.pruning.rung_history import RungHistory
from hpo.search.trial_chains import CONTINUES
from hpo.search.warm_start import Known, coordinates, known, points
from studies.config.spec import parse_spec

SPACE = {
    "learner": ["protonet", "maml"],
    "outer_lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "meta_batch_size": 4,
    "weight_decay": {"low": 0.0, "high": 0.5},
    "head": "scalars",
    "trainable_layers": [0, 2],
    "inner_lr": 0.1,
    "support_batch_size": 5,
    "encoder_lr": {"low": 1e-5, "high": 1e-3, "log": True},
}


@pytest.fixture
def search():
    section = {"trials": 4, "space": SPACE, "learners": {"maml": {"inner_steps": {"low": 1, "high": 5}}}}
    return parse_spec({"name": "s", "data": {"source": "completejourney"}, "search": section}).search


def test_coordinates_are_positions_in_ranges_and_a_column_for_each_choice(search):
    """Trees split at them: a rate's logarithm, not the rate, and no order among learners."""
    first = {"learner": "maml", "outer_lr": 1e-3, "weight_decay": 0.125, "trainable_layers": 0, "inner_steps": 2}
    assert coordinates(search, first) == pytest.approx([0, 1, 0.5, 0.25, 1, 0, 0.25, 0])
    other = {"learner": "protonet", "outer_lr": 1e-2, "weight_decay": 0.0, "trainable_layers": 2, "encoder_lr": 1e-4}
    assert coordinates(search, other) == pytest.approx([1, 0, 1, 0, 0, 1, 0, 0.5])


def test_configurations_of_another_space_have_coordinates_too(search):
    """An older study had other learners, wider ranges, words where this one has numbers, or less to search."""
    assert coordinates(search, {"learner": "anil", "outer_lr": 1.0, "weight_decay": "learned"}) == pytest.approx(
        [0, 0, 1, 0, 0, 0, 0, 0]
    )


def trial(number, learner="protonet", **attributes):
    rate = optuna.distributions.FloatDistribution(0, 1)
    return create_trial(
        state=TrialState.PRUNED,
        params={"learner": learner, f"{learner}.inner_lr": number / 10},
        distributions={
            "learner": optuna.distributions.CategoricalDistribution(["protonet", "maml"]),
            f"{learner}.inner_lr": rate,
        },
        user_attrs=attributes,
    )


def test_a_pruned_trial_counts_as_what_it_was_forecast_to_reach():
    """Early recalls are lower than late ones: as they stand, the best pruned trial would seem worse than a poor one."""
    history = RungHistory([1, 2])
    for number, (first, last) in enumerate([(0.2, 0.4), (0.3, 0.5), (0.4, 0.6), (0.5, None), (math.nan, None)]):
        history.add(number, 0, first)
        if last is not None:
            history.add(number, 1, last)
    trials = [trial(number, "maml") for number in range(6)]
    for number, each in enumerate(trials):
        each.number = number
    continued = trial(6, "maml", **{CONTINUES: 2})
    continued.number = 6
    found = known([*trials, continued], history)
    assert [each.values for each in found] == [{"learner": "maml", "inner_lr": number / 10} for number in range(5)]
    assert [each.recall for each in found[:3]] == pytest.approx([0.4, 0.5, 0.6])
    assert 0.55 < found[3].recall < 0.75
    assert found[4].recall == 0


def test_points_are_the_promising_ones_and_more_of_them_begin_with_the_same(search):
    """A launch that asks for more must not queue other ones in place of those that were tried."""
    rates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    good, poor = ("maml", 0.4), ("protonet", 0.2)
    trials = [
        Known({"learner": learner, "outer_lr": rate, "weight_decay": 0.1, "trainable_layers": 0}, level + 10 * rate)
        for learner, level in (good, poor)
        for rate in rates
    ]
    found = points(search, trials, 5)
    assert [point["learner"] for point in found] == ["maml"] * 5
    assert all(point["outer_lr"] > 3e-3 for point in found)
    assert all("maml.inner_steps" in point for point in found), "by the names that they have in the study"
    assert len({point["outer_lr"] for point in found}) == 5
    assert points(search, trials, 2) == found[:2]

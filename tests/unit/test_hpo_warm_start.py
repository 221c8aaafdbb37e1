"""What an older study's trials say of a new one's configurations."""

import json
import math

import pytest

from hpo.pruning.rung_history import RungHistory
from hpo.search.warm_start import RECORDED, Columns, Forest, Known, ends, plain
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
# Of their columns: words first, in order, then numbers.
NAMES = [
    "maml", "protonet", "scalars", "outer_lr", "meta_batch_size", "weight_decay", "trainable_layers", "inner_lr",
    "inner_steps", "support_batch_size", "encoder_lr", "train_candidates", "dropout",
]  # fmt: skip


@pytest.fixture
def search():
    section = {"trials": 4, "space": SPACE, "learners": {"maml": {"inner_steps": {"low": 1, "high": 5}}}}
    return parse_spec({"name": "s", "data": {"source": "completejourney"}, "search": section}).search


def test_words_have_a_column_each_and_numbers_stand_in_their_range(search):
    """Trees split at them: a rate's logarithm, not the rate, and no order among learners."""
    columns = Columns(search)
    first = {"learner": "maml", "outer_lr": 1e-3, "weight_decay": 0.125, "trainable_layers": 0, "inner_steps": 2}
    named = dict(zip(NAMES, columns.of(first), strict=True))
    assert (named["maml"], named["protonet"], named["scalars"]) == (1, 0, 0)
    assert named["outer_lr"] == pytest.approx(0.5)
    assert named["weight_decay"] == pytest.approx(0.25)
    assert named["inner_steps"] == pytest.approx(0.25)
    assert named["trainable_layers"] == 0
    other = {"learner": "protonet", "head": "scalars", "trainable_layers": 1, "encoder_lr": 1e-4}
    named = dict(zip(NAMES, columns.of(other), strict=True))
    assert (named["maml"], named["protonet"], named["scalars"]) == (0, 1, 1)
    assert (named["trainable_layers"], named["encoder_lr"]) == pytest.approx((0.5, 0.5))


def test_configurations_of_another_space_have_the_same_columns(search):
    """An older study had other learners, wider ranges, or less to search."""
    found = dict(zip(NAMES, Columns(search).of({"learner": "anil", "outer_lr": 1.0, "weight_decay": -1}), strict=True))
    assert {name for name, value in found.items() if value} == {"outer_lr"}
    assert found["outer_lr"] == 1


@pytest.mark.parametrize("own", [[20, 30], 20, {"low": 20, "high": 30}, {"low": 1, "high": 30, "log": True}])
def test_learners_may_have_domains_of_other_kinds(own):
    """As in the example of the docs: their values stand in one range, so that all configurations can be compared."""
    space = SPACE | {"learner": ["anil", "maml"], "inner_steps": [1, 2]}
    section = {"trials": 4, "space": space, "learners": {"maml": {"inner_steps": own}}}
    search = parse_spec({"name": "s", "data": {"source": "completejourney"}, "search": section}).search
    columns = Columns(search)
    low, high = (
        columns.of({"learner": name, "inner_steps": steps})[NAMES.index("inner_steps")]
        for name, steps in (("anil", 1), ("maml", 20))
    )
    assert low == 0
    assert high > 0.6
    trials = [Known({"learner": name, "inner_steps": 1}, recall) for name, recall in (("anil", 0.1), ("maml", 0.2))]
    Forest(search, trials, 0).expected([{"learner": "maml", "inner_steps": 20}])


def test_a_pruned_trial_counts_as_what_it_was_forecast_to_reach():
    """Early recalls are lower than late ones: as they stand, the best pruned trial would seem worse than a poor one."""
    history = RungHistory([1, 2])
    for number, (first, last) in enumerate([(0.2, 0.4), (0.3, 0.5), (0.4, 0.6), (0.5, None), (math.nan, None)]):
        history.add(number, 0, first)
        if last is not None:
            history.add(number, 1, last)
    found = ends(history, range(6))
    assert list(found) == [0, 1, 2, 3, 4]
    assert [found[number] for number in range(3)] == pytest.approx([0.4, 0.5, 0.6])
    assert 0.55 < found[3] < 0.75
    assert found[4] == 0


def test_a_parameter_has_its_own_name_whatever_the_learner():
    """`maml.inner_steps` of one study is `inner_steps` of another, which has one range for all learners."""
    assert plain({"learner": "maml", "maml.inner_lr": 0.1, "head": "all"}) == {
        "learner": "maml",
        "inner_lr": 0.1,
        "head": "all",
    }


def test_recorded_trials_lie_in_the_space_that_a_study_has_by_default():
    """They were recorded in it; a parameter that is renamed or narrowed later would make them useless unnoticed."""
    rows = json.loads(RECORDED.read_text())
    assert rows.keys() == {"new classes"}
    default = parse_spec({"name": "s", "task": "classification", "data": {"source": "completejourney"}}).search
    assert len(rows["new classes"]) == 200
    for values, recall in rows["new classes"]:
        assert 0 <= recall <= 1
        default.point(values)

"""The search space: what is suggested, by which sampler."""

import optuna
import pytest

from hpo.search.space import grid, make_sampler, suggest
from studies.config.search_section import SearchSection


def section(**values):
    return SearchSection.model_validate(values)


def ask(search, seed=0, trials=1):
    search = search.model_copy(update={"seed": seed})
    study = optuna.create_study(direction="maximize", sampler=make_sampler(search))
    found = []
    for _ in range(trials):
        trial = study.ask()
        found.append((suggest(trial, search), trial.params))
        study.tell(trial, 0.0)
    return found


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_a_learner_without_an_inner_loop_gets_no_inner_loop_parameters(sampler):
    """Suggesting them anyway would teach the sampler that noise matters."""
    found = ask(section(sampler=sampler, space={"learner": ["protonet", "anil", "finetune"]}), trials=12)
    assert {values.learner for values, _ in found} > {"protonet"}
    for values, params in found:
        inner = {"inner_lr", "inner_steps"} & params.keys()
        assert bool(inner) == (values.learner != "protonet")
        assert (values.inner_steps is None) == (values.learner == "protonet")


def test_every_value_lies_in_its_domain():
    """A domain read wrongly (log, whole numbers, choices) would search elsewhere than the file says."""
    search = section(
        sampler="random",
        space={
            "learner": "anil",
            "inner_steps": {"low": 2, "high": 4},
            "inner_lr": {"low": 0.01, "high": 0.1, "log": True},
            "meta_batch_size": [4, 16],
            "weight_decay": 0.5,
        },
    )
    for values, _ in ask(search, trials=30):
        assert values.learner == "anil"
        assert values.inner_steps in (2, 3, 4)
        assert 0.01 <= values.inner_lr <= 0.1
        assert values.meta_batch_size in (4, 16)
        assert values.weight_decay == 0.5


def test_the_default_configuration_is_the_middle_of_every_domain():
    """What a search gains is measured from here: a corner of the space would flatter it."""
    space = {
        "learner": ["maml", "anil"],
        "outer_lr": {"low": 1e-5, "high": 1e-3, "log": True},
        "inner_lr": {"low": 0.1, "high": 0.3},
        "inner_steps": {"low": 1, "high": 4},
        "meta_batch_size": [16, 4, 8, 2],
        "weight_decay": 0.5,
        "trainable_layers": [0, 2, 6],
        "head": ["projection", "all"],
    }
    search = section(space=space, learners={"maml": {"inner_lr": {"low": 0.07, "high": 0.07, "log": True}}})
    point = search.default_point()
    assert point["outer_lr"] == pytest.approx(1e-4)
    assert (point["maml.inner_lr"], point["inner_steps"], point["meta_batch_size"]) == (0.07, 2, 4)
    assert (point["learner"], point["trainable_layers"], point["head"]) == ("maml", 2, "projection")
    study = optuna.create_study(sampler=make_sampler(search))
    study.enqueue_trial(point)
    trial = study.ask()
    suggest(trial, search)
    assert trial.params == point
    frozen = section(space=space | {"learner": ["protonet", "anil"], "trainable_layers": 0})
    assert not frozen.default_point().keys() & {"inner_lr", "inner_steps", "encoder_lr"}


def test_a_grid_visits_every_point_once():
    """Optuna's grid would train protonet once per value of parameters that it does not use."""
    space = {
        "learner": ["anil", "fomaml", "protonet"],
        "inner_steps": {"low": 1, "high": 2},
        "inner_lr": 0.1,
        "outer_lr": [0.001, 0.002],
        "meta_batch_size": 8,
        "weight_decay": 0.1,
        "head": "all",
        "trainable_layers": 0,
    }
    points = grid(section(sampler="grid", space=space))
    assert len(points) == 10
    assert len({tuple(sorted(point.items())) for point in points}) == 10
    assert sum(point["learner"] == "protonet" for point in points) == 2


def test_parameters_of_the_encoder_are_drawn_only_where_its_layers_train():
    """A rate of frozen layers would be noise to the sampler."""
    found = ask(section(sampler="random", space={"learner": "protonet", "trainable_layers": [0, 1]}), trials=12)
    assert {values.trainable_layers for values, _ in found} == {0, 1}
    for values, params in found:
        trains = values.trainable_layers > 0
        assert ("encoder_lr" in params) == trains
        assert (values.encoder_lr is not None) == trains
        assert (values.train_candidates is not None) == trains
        assert (values.dropout is not None) == trains


def test_a_learners_own_range_has_a_name_of_its_own_and_yields_to_the_study_file():
    """One name with two ranges would make a sampler that models it propose what a learner may not have."""
    search = section(sampler="random", space={"learner": ["maml", "anil"]})
    for values, params in ask(search, trials=12):
        assert ("maml.inner_steps" in params) == (values.learner == "maml")
        assert ("inner_steps" in params) == (values.learner == "anil")
        assert values.inner_steps <= (5 if values.learner == "maml" else 10)
    fixed = section(sampler="random", space={"learner": ["maml", "anil"], "inner_steps": 7})
    assert {values.inner_steps for values, _ in ask(fixed, trials=8)} == {7}
    own = section(space={"learner": "maml", "inner_steps": 7}, learners={"maml": {"inner_steps": 2}})
    assert ask(own)[0][0].inner_steps == 2


def test_studies_with_different_seeds_propose_different_trials():
    """If the sampler ignored the seed, every study would propose the same trials."""
    search = section(sampler="random")
    assert ask(search, seed=0, trials=3) != ask(search, seed=1, trials=3)
    assert ask(search, seed=0, trials=3) == ask(search, seed=0, trials=3)


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_what_is_proposed_for_a_trial_depends_on_the_study_alone(sampler):
    """A worker that was killed and started again would otherwise search elsewhere than one that was not."""
    search = section(sampler=sampler, trials=8)
    whole = [params for _, params in ask(search, trials=8)]

    study = optuna.create_study(direction="maximize")
    for _ in range(8):
        study.sampler = make_sampler(search)  # a new worker every time
        trial = study.ask()
        suggest(trial, search)
        study.tell(trial, 0.0)
    assert [trial.params for trial in study.trials] == whole
    assert len({tuple(sorted(params.items())) for params in whole}) == 8, "and no two draw the same numbers"

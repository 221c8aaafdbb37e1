"""The search space: what is suggested, by which sampler."""

import optuna
import pytest

from hpo.search_space import grid, make_sampler, suggest
from studies.spec import SearchSection


def section(**values):
    return SearchSection.model_validate(values)


def ask(search, seed=0, trials=1):
    study = optuna.create_study(direction="maximize", sampler=make_sampler(search, seed))
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


def test_a_grid_visits_every_point_once():
    """Optuna's grid would train protonet once per value of parameters that it has no use for."""
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


def test_workers_with_different_seeds_propose_different_trials():
    """Equal seeds would make every worker run the same trials."""
    search = section(sampler="random")
    assert ask(search, seed=0, trials=3) != ask(search, seed=1, trials=3)
    assert ask(search, seed=0, trials=3) == ask(search, seed=0, trials=3)

"""Rungs by measured cost: how many updates they come to, and that measuring changes nothing."""

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studies.config.definition import PrunerSection
from studies.config.hyperparameters import Hyperparameters
from studies.training.cost_model import rung_updates, seconds_per_update, updates_within
from studies.training.objective import run_trial
from studies.training.prepare import prepare
from studies.training.problem import Problem
from studies.training.rungs import RungReport
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

ANIL = Hyperparameters("anil", meta_batch_size=2, inner_lr=0.05, inner_steps=2)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    folder: Path = tmp_path_factory.mktemp("pace")
    pruner = {"resource": "seconds", "rungs": [1, 2]}
    return prepare(tiny_spec(tiny_encoder(folder / "tiny"), pruner=pruner), folder / "cache", data=planted_dataset())


def test_seconds_at_a_pace_are_updates() -> None:
    """Turned over, a fast learner would be trained by the fewest updates."""
    assert updates_within([10, 30, 90], 0.5) == [20, 60, 180]
    assert updates_within([1, 2], 100.0) == [2, 3], "increasing, however slow"


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=5, unique=True).map(sorted), st.floats(1e-4, 1e4))
def test_rungs_increase_at_any_pace(seconds: list[int], pace: float) -> None:
    """Two rungs at one number of updates would compare a trial with itself."""
    updates = updates_within(seconds, pace)
    assert all(a < b for a, b in pairwise(updates))
    assert updates[0] >= 2


def test_rungs_in_updates_are_those_of_the_study_file(problem: Problem) -> None:
    """Measured anyway, the same study would be another on another machine."""
    section = PrunerSection(rungs=[3, 9])
    assert rung_updates(section, problem.learner(ANIL), problem.train, 0) == [3, 9]


def test_measuring_the_pace_leaves_weights_and_gradients_as_they_were(problem: Problem) -> None:
    """A gradient left over from measuring would be part of the first update."""
    learner = problem.learner(ANIL)
    before = copy.deepcopy(learner.model.state_dict())
    assert seconds_per_update(learner, problem.train, 0) > 0
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.model.parameters())


def test_a_trial_resumed_keeps_the_rungs_that_it_started_with(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured again on a busy machine, its schedule would end elsewhere than it was heading."""

    class Stop(Exception):
        pass

    def stop(report: RungReport) -> None:
        raise Stop

    paces = iter([0.25, 0.01])
    monkeypatch.setattr("studies.training.cost_model.seconds_per_update", lambda *_: next(paces))
    with pytest.raises(Stop):
        run_trial(problem, ANIL, tmp_path / "trial", stop)
    heard: list[RungReport] = []
    run_trial(problem, ANIL, tmp_path / "trial", heard.append)
    assert [report.step for report in heard] == [4, 8]

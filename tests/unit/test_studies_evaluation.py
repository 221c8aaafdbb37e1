"""What a system is asked, what is made of its scores, and what a meta-trained learner is without its support."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from studies.config.hyperparameters import Hyperparameters
from studies.episodes.catalogue_terms import TERMS
from studies.episodes.episode import Episode
from studies.evaluation.evaluate import Adapted, ItemVectors, System, Unadapted, evaluate
from studies.evaluation.metrics import METRICS
from studies.learners.base import Learner
from studies.learners.tasks.scene_tasks import scene_learner
from studies.model.recommender import Head, Recommender
from studies.model.towers import FrozenTower
from tests.unit.test_studies_metrics import make_episode

ITEMS, WIDTH = 30, 12
LENGTHS = torch.ones(ITEMS, dtype=torch.int64)
SCENES = ("attic", "bath", "cellar")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Fixed:
    """Gives each episode, by the second it opens at, the scores it is told."""

    def __init__(self, scores: dict[int, Tensor]) -> None:
        self._scores = scores

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) as told."""
        return self._scores[episode.opened]


def opening(scene: int, opened: int, queries: int = 4, candidates: int = 8) -> Episode:
    """An episode with random takes, histories and exclusions, and two items that are no candidates."""
    relevant = torch.rand(queries, candidates) < 0.3
    relevant[:, 0] = True
    return make_episode(
        relevant,
        (1, 3, 3),
        scene=scene,
        opened=opened,
        items=torch.randperm(ITEMS)[: candidates + 2],
        held=torch.arange(candidates + 2),
        support_history=torch.randint(0, 2, (3, candidates + 2)).float(),
        query_history=torch.randint(0, 3, (queries, candidates + 2)).float(),
        excluded=~relevant & (torch.rand(queries, candidates) < 0.2),
    )


def learner(name: str = "protonet") -> Learner:
    """A learner none of whose weights is at its start, where much is zero."""
    model = Recommender(FrozenTower(nn.functional.normalize(torch.randn(ITEMS, WIDTH), dim=1)), Head(WIDTH, 6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    steps = {} if name == "protonet" else {"inner_lr": 0.1, "inner_steps": 2}
    return scene_learner(model, Hyperparameters(learner=name, **steps))


def test_the_figures_of_a_few_episodes_worked_out_by_hand() -> None:
    """Every average at once: queries within episodes, these within scenes, kinds of queries left out of them."""
    two = torch.tensor([[True, False, False, False], [False, True, True, False]])
    one = torch.tensor([[False, False, False, True]])
    episodes = [
        # The second user has a history; the first item is in the support.
        make_episode(two, opened=1, query_history=torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 1]])),
        make_episode(one, opened=2, excluded=torch.tensor([[True, True, False, False]])),
        make_episode(one, opened=3, scene=2, query_history=torch.ones(1, 4)),
    ]
    falling = torch.tensor([[4.0, 3, 2, 1]] * 2)
    system = Fixed({1: falling, 2: falling[:1], 3: falling[:1]})
    found = evaluate(system, episodes, SCENES, 2)
    assert list(found.scenes) == ["attic", "cellar"]
    # Episode 1 finds all of one and one of two; episode 2 ranks items 2 and 3 only; episode 3 shows items 0 and 1.
    expected = {
        "recall": [(0.75 + 1) / 2, 0],
        "mrr": [((1 + 1 / 2) / 2 + 1 / 2) / 2, 1 / 4],
        "hit_rate": [1, 0],
        "precision": [1 / 2, 0],
        "accuracy": [(0.5 + 0) / 2, 0],
        "new_item_recall": [(0.5 + 1) / 2, 0],
        "cold_user_recall": [1, math.nan],
        "coverage": [1, 1 / 2],
        "popularity": [(1 / (3 / 4) + 0.5 / (1 / 4)) / 2, 0],
    }
    for metric, values in expected.items():
        assert found.values(metric).tolist() == pytest.approx(values, nan_ok=True), metric
    assert {*expected, "ndcg"} == set(METRICS)


def test_dump_and_progress_are_told_of_every_episode() -> None:
    """A run that lacks an episode gives other averages to whoever checks it."""
    episodes = [opening(scene, opened) for opened, scene in enumerate([0, 0, 1, 2])]
    scores = {episode.opened: torch.randn(episode.relevant.shape) for episode in episodes}
    told: list[tuple[Episode, Tensor]] = []
    steps: list[tuple[int, int]] = []
    with_dump = evaluate(
        Fixed(scores), episodes, SCENES, 3, lambda *step: steps.append(step), lambda *seen: told.append(seen)
    )
    assert with_dump == evaluate(Fixed(scores), episodes, SCENES, 3)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [episode.opened for episode, _ in told] == [0, 1, 2, 3]
    for episode, order in told:
        assert order.sort(1).values.tolist() == [list(range(episode.candidates))] * len(order)
        left = (~episode.excluded).sum(1)
        for row, out, length in zip(order, episode.excluded, left, strict=True):
            assert out[row].tolist() == [False] * length + [True] * (len(row) - length)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused_even_where_it_is_not_ranked(bad: float) -> None:
    """A model that diverged must not be given a recall because the first NaN fell on something excluded."""
    episode = opening(1, 0)
    scores = torch.zeros(episode.relevant.shape)
    scores[tuple(episode.excluded.nonzero()[0])] = bad
    with pytest.raises(FloatingPointError, match="'bath'"):
        evaluate(Fixed({0: scores}), [episode], SCENES, 3)


@pytest.mark.parametrize("name", ["protonet", "anil", "fomaml"])
def test_unadapted_is_the_recommender_without_all_that_the_support_says(name: str) -> None:
    """A system that still counted the support would make adapting look worthless."""
    trained, episode = learner(name), opening(0, 0)
    vectors = ItemVectors(trained.model.tower, [episode], LENGTHS)
    found = Unadapted(trained, vectors).scores(episode)
    adapted = scene_learner(trained.model, Hyperparameters()).adapt(episode, trained.model.tower(episode.items))
    without = torch.tensor([1.0, 1, 0, 0, 0, 0, 1, 1, *[1] * len(TERMS)])
    expected = replace(adapted, feature_weights=adapted.feature_weights * without).scores(episode.query_history)
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    assert (found - Adapted(trained, vectors).scores(episode)).abs().max() > 0.01


def test_unadapted_does_not_depend_on_the_support() -> None:
    """Direct transfer means that the support could as well be anyone's."""
    episode = opening(0, 0)
    other = replace(episode, support=torch.tensor([0, 7, 2]), support_history=torch.zeros_like(episode.support_history))
    trained = learner()
    system = Unadapted(trained, ItemVectors(trained.model.tower, [episode], LENGTHS))
    assert torch.equal(system.scores(episode), system.scores(other))


@pytest.mark.parametrize("kind", [Adapted, Unadapted])
def test_items_are_encoded_once_by_the_tower_asked_for(kind: type[Adapted] | type[Unadapted]) -> None:
    """Encoded again for each episode, a student's evaluation would take as long as its distillation."""
    trained, episodes = learner(), [opening(0, 0), opening(0, 1), opening(1, 2)]
    encoded: list[int] = []

    class Counting(FrozenTower):
        def forward(self, items: Tensor) -> Tensor:
            """The same as the parent, noted down."""
            encoded.extend(items.tolist())
            return super().forward(items)

    system: System = kind(trained, ItemVectors(Counting(trained.model.tower.locked), episodes, LENGTHS))
    # What only histories hold is looked up.
    read = {item for episode in episodes for item in episode.items[: episode.candidates].tolist()}
    assert sorted(encoded) == sorted(read)
    own: System = kind(trained, ItemVectors(trained.model.tower, episodes, LENGTHS))
    for episode in episodes:
        torch.testing.assert_close(system.scores(episode), own.scores(episode))

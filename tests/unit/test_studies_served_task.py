"""Scenes in service adapt as autograd adapts them: by a gradient that is written out, from a head that is shared."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from studies.config.hyperparameters import HEAD_PARTS, HeadPart, Hyperparameters
from studies.episodes.catalogue_terms import TERMS
from studies.episodes.elsewhere import HALF_LIVES
from studies.learners.base import Learner
from studies.learners.fomaml import FOMAML
from studies.learners.inner_loop import Weights
from studies.learners.registry import RANKING_LEARNERS
from studies.learners.tasks.frozen_encoder import FrozenEncoderTask
from studies.learners.tasks.inputs import Users
from studies.learners.tasks.scene_tasks import SceneTasks, scene_learner
from studies.learners.tasks.served_task import ServedScene
from studies.model.projected_items import ProjectedItems
from studies.model.recommender import Head, Recommender
from studies.model.scene_encoding import AdaptedScene, EpisodeTexts

WIDTH, SIZE = 12, 5
GRADIENT = [name for name, entry in RANKING_LEARNERS.items() if entry.takes_gradient_steps]


def learner_of(
    name: str, seed: int = 0, part: HeadPart = "all", elsewhere: bool = True, batch: int | None = None
) -> Learner:
    """A learner in float64 with every weight away from where training starts."""
    torch.manual_seed(seed)
    steps: dict[str, Any] = {"inner_lr": 0.1, "inner_steps": 3, "support_batch_size": batch}
    values = Hyperparameters(name, head=part, **(steps if name in GRADIENT else {}))
    head = Head(WIDTH, SIZE, learned_rates=values.entry.learns_inner_rates, elsewhere=elsewhere).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    head.train_only(part)
    return scene_learner(Recommender(nn.Identity(), head), values)


def scene_of(
    learner: Learner, seed: int = 0, candidates: int = 9, shots: int = 3, held: int = 6, elsewhere: bool = True
) -> ServedScene:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    vectors, others = (functional.normalize(drawn(n, WIDTH) - 0.5, dim=1) for n in (candidates, held))
    kinds, columns = (len(HALF_LIVES), candidates) if elsewhere else (0, 0)
    popularity = drawn(candidates, kinds)
    texts = EpisodeTexts(
        drawn(shots, candidates),
        drawn(shots, candidates),
        drawn(candidates, len(TERMS)),
        popularity / popularity.sum(0),
    )
    history = torch.randint(0, 3, (shots, held), generator=generator).double()
    users = Users(history, candidates + torch.arange(held), others, 0.1 * drawn(shots, columns))
    head = {name: weight.detach() for name, weight in learner.model.head.named_parameters()}
    support = torch.randint(0, candidates, (shots,), generator=generator)
    return ServedScene.of(ProjectedItems.of(vectors, vectors.mean(0), head), support, texts, users)


def by_autograd(learner: Learner, scene: ServedScene) -> AdaptedScene:
    task = FrozenEncoderTask(
        model=learner.model,
        inputs=scene.inputs,
        unadapted=lambda: scene.items.vectors,
        adapts=learner.entry.adapts,
        training=False,
        support_batch_size=learner.hyperparameters.support_batch_size,
        episodes=None,
    )
    weights = learner.inner_loop(task, training=False)
    with torch.no_grad():
        return task.adapted({name: weight.detach() for name, weight in weights.items()})


def check_equal(learner: Learner, scene: ServedScene) -> None:
    """The learner adapts to the scene as with autograd: the same scores for users with and without histories."""
    served, wanted = learner.adapt(scene, scene.items.vectors), by_autograd(learner, scene)
    users, held = scene.inputs.support_users, scene.inputs.support_users.others
    torch.testing.assert_close(dict(served.head), dict(wanted.head), rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        encoding = learner.model.head.with_history_items(served.encoding, held, served.head)
        reference = wanted.encoding
        torch.testing.assert_close(encoding, reference, rtol=1e-9, atol=1e-11)
        found = AdaptedScene(encoding, served.preference, served.feature_weights, served.bias)
        expected = AdaptedScene(reference, wanted.preference, wanted.feature_weights, wanted.bias)
        scores = (each.scores(users.history, past=users.past) for each in (found, expected))
        torch.testing.assert_close(*scores, rtol=1e-9, atol=1e-9)
        assert not found.scores(users.history, past=users.past).requires_grad


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(RANKING_LEARNERS)),
    st.integers(0, 1000),
    st.sampled_from(HEAD_PARTS),
    st.booleans(),
    st.sampled_from([None, 1, 2]),
    st.tuples(st.integers(1, 30), st.integers(1, 7), st.integers(0, 9)),
)
def test_serving_adapts_as_autograd_does(
    name: str, seed: int, part: HeadPart, elsewhere: bool, batch: int | None, sizes: tuple[int, int, int]
) -> None:
    """A gradient that is written out drifts from the score that it is of, and then a student is served untrained."""
    learner = learner_of(name, seed, part, elsewhere, batch)
    check_equal(learner, scene_of(learner, seed, *sizes, elsewhere=elsewhere))


class _SecondOrder(FOMAML):
    """A learner that differentiates the support's gradient while it adapts."""

    def inner_loop(self, task: Any, *, training: bool) -> Weights:
        weights: Weights = task.start()
        names = [name for name in weights if name != "bias"]
        with torch.enable_grad():
            loss = task.support_loss(weights, 0)
            found = torch.autograd.grad(loss, [weights[name] for name in names], create_graph=True)
            length = sum(gradient.square().sum() for gradient in found)
            moves = torch.autograd.grad(length, [weights[name] for name in names], materialize_grads=True)
        return weights | {name: weights[name] - 0.1 * move for name, move in zip(names, moves, strict=True)}


class _OtherStart(FOMAML):
    """A learner that starts elsewhere than its task says, and adds a term to the loss."""

    def inner_loop(self, task: Any, *, training: bool) -> Weights:
        weights = {name: (1.1 * w).detach().requires_grad_() for name, w in task.start().items()}
        with torch.enable_grad():
            loss = 2 * task.support_loss(weights, 0) + sum(weight.square().sum() for weight in weights.values())
            moves = torch.autograd.grad(loss, list(weights.values()))
        return {name: weight - 0.1 * move for (name, weight), move in zip(weights.items(), moves, strict=True)}


@pytest.mark.parametrize("kind", [_SecondOrder, _OtherStart])
def test_any_learner_is_served(kind: Callable[..., Learner]) -> None:
    """A learner is one file: it must not have to know how the gradient that it asks for is made."""
    base = learner_of("fomaml")
    learner = kind(base.model, base.hyperparameters, SceneTasks())
    check_equal(learner, scene_of(learner))


def test_weights_without_a_written_gradient_are_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight that a head gains later must adapt by itself, and threads must not see it move in the shared head."""
    learner = learner_of("maml")
    monkeypatch.setattr("studies.learners.tasks.served_task.WRITTEN_OUT", frozenset({"project.weight"}))
    before = {name: weight.clone() for name, weight in learner.model.state_dict().items()}
    check_equal(learner, scene_of(learner))
    assert all(torch.equal(weight, before[name]) for name, weight in learner.model.state_dict().items())

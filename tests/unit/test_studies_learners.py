"""Learners against their definitions: gradients by finite differences and by hand, and what they may not look at."""

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from studies.config.definition import TeacherSection
from studies.config.hyperparameters import Hyperparameters
from studies.episodes.catalogue_terms import TERMS
from studies.episodes.elsewhere import HALF_LIVES
from studies.episodes.episode import Episode
from studies.learners.base import Learner
from studies.learners.finetune import FineTune
from studies.learners.fomaml import FOMAML
from studies.learners.inner_loop import descend
from studies.learners.maml import MAML
from studies.learners.protonet import ProtoNet
from studies.learners.registry import RANKING_LEARNERS
from studies.learners.reptile import Reptile
from studies.learners.tasks.losses import ranking_loss
from studies.learners.tasks.meta_batch import side_by_side
from studies.learners.tasks.scene_tasks import SceneTasks, scene_learner
from studies.model.activation_cache import ActivationCache
from studies.model.device import device_settings, full_precision
from studies.model.encoder import load, tokenize
from studies.model.recommender import Head, Recommender
from studies.model.scene_encoding import (
    MOST_BY_TEXT,
    UNKNOWN,
    AdaptedScene,
    EpisodeTexts,
    FeatureWeights,
    ScoreFeatures,
    episode_texts,
)
from studies.model.towers import FrozenTower, build_tower
from tests.synthetic import BRANDS, COLOURS, SCENES, tiny_encoder

ITEMS, WIDTH, SIZE = 24, 6, 4
EVERY = sorted(RANKING_LEARNERS)
GRADIENT = [name for name, entry in RANKING_LEARNERS.items() if entry.takes_gradient_steps]
# Whose outer gradient is the derivative of a loss that evaluation computes too.
OF_A_LOSS = ["anil", "finetune", "maml", "metasgd", "protonet"]


def values(learner: str, inner_lr: float = 0.3, inner_steps: int = 2, layers: int = 0) -> Hyperparameters:
    if learner not in GRADIENT:
        return Hyperparameters(learner, trainable_layers=layers)
    return Hyperparameters(learner, trainable_layers=layers, inner_lr=inner_lr, inner_steps=inner_steps)


def learner_of(name: str, seed: int = 0, inner_steps: int = 2) -> Learner:
    """A small learner in float64 with every weight away from zero, so that no gradient vanishes by symmetry."""
    generator = torch.Generator().manual_seed(seed)
    table = functional.normalize(torch.randn(ITEMS, WIDTH, generator=generator, dtype=torch.float64), dim=1)
    hyperparameters = values(name, inner_steps=inner_steps)
    head = Head(WIDTH, SIZE, learned_rates=hyperparameters.entry.learns_inner_rates, elsewhere=True).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return scene_learner(Recommender(FrozenTower(table), head), hyperparameters)


def episode_of(seed: int = 0, shots: int = 3, candidates: int = 6, others: int = 5, queries: int = 4) -> Episode:
    generator = torch.Generator().manual_seed(seed)

    def counts(rows: int) -> Tensor:
        drawn = torch.randint(-2, 3, (rows, candidates + others), generator=generator)
        return drawn.clamp(min=0).double()

    relevant = torch.rand(queries, candidates, generator=generator) < 0.4
    relevant[:, int(torch.randint(candidates, (), generator=generator))] = True
    past = torch.Generator().manual_seed(seed + 100)
    rest = torch.randperm(ITEMS - candidates, generator=generator)[:others].sort().values + candidates
    return Episode(
        scene=seed,
        opened=0,
        items=torch.cat([torch.arange(candidates), rest]),
        candidates=candidates,
        held=torch.arange(candidates + others),
        support=torch.randint(candidates, (shots,), generator=generator),
        support_history=counts(shots),
        query_history=counts(queries),
        relevant=relevant,
        excluded=torch.zeros_like(relevant),
        elsewhere=(elsewhere := torch.rand(candidates, len(HALF_LIVES), generator=past).double()),
        elsewhere_total=0.2 * elsewhere.sum(0),
        support_past=torch.randint(3, (shots, candidates), generator=past).to(torch.uint8),
        query_past=torch.randint(3, (queries, candidates), generator=past).to(torch.uint8),
        support_past_total=torch.rand(shots, generator=past).double() + 1,
        query_past_total=torch.rand(queries, generator=past).double() + 1,
        overlap=torch.rand(shots, candidates, generator=generator).double(),
        fields=torch.rand(shots, candidates, generator=generator).double(),
        terms=torch.rand(candidates, len(TERMS), generator=generator).double(),
        users=torch.arange(queries),
        rows=torch.arange(shots),
    )


def vectors_of(model: Recommender, episode: Episode) -> Tensor:
    """Candidates as the tower reads them, what only histories hold as the pretrained encoder does."""
    candidates, others = episode.items[: episode.candidates], episode.items[episode.candidates :]
    return torch.cat([model.tower(candidates), model.tower.locked[others]])


def adapt(learner: Learner, episode: Episode, training: bool = False) -> AdaptedScene:
    return learner.adapt(episode, vectors_of(learner.model, episode), training=training)


def query_scores(learner: Learner, episode: Episode) -> Tensor:
    return adapt(learner, episode).scores(episode.query_history, past=episode.query_share)


def gradients(learner: Learner, episodes: list[Episode]) -> dict[str, Tensor]:
    learner.model.zero_grad()
    learner.meta_step(episodes)
    return {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}


def outer_loss(learner: Learner, episodes: list[Episode]) -> float:
    """The outer loss through evaluation alone: no graph, so nothing shared with the meta-gradient."""
    if isinstance(learner, FineTune):
        learner = ProtoNet(learner.model, Hyperparameters(), SceneTasks())  # trained as it is, without adapting
    losses = [ranking_loss(query_scores(learner, e), e.relevant, e.excluded) for e in episodes]
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OF_A_LOSS)
def test_the_meta_gradient_equals_finite_differences_through_the_inner_loop(name: str, seed: int) -> None:
    """A gradient cut anywhere in the inner loop still trains, only worse: nobody would notice."""
    learner = learner_of(name, seed)
    episodes = [episode_of(seed), episode_of(seed + 10, shots=2, candidates=5)]
    analytic = gradients(learner, episodes)
    learned = {name for name, _ in learner.model.named_parameters()}
    # Without an inner loop in the outer one, there is no rate to learn.
    assert set(analytic) == learned - ({"head.bias_rate"} if name in ("protonet", "finetune") else set())
    generator = torch.Generator().manual_seed(seed)
    step = 4e-5
    for parameter_name, gradient in analytic.items():
        flat = learner.model.get_parameter(parameter_name).data.view(-1)
        for index in torch.randperm(len(flat), generator=generator)[:4].tolist():
            at = float(flat[index])
            losses = []
            for moved in (at + step, at - step):
                flat[index] = moved
                losses.append(outer_loss(learner, episodes))
            flat[index] = at
            numeric = (losses[0] - losses[1]) / (2 * step)
            assert float(gradient.view(-1)[index]) == pytest.approx(numeric, rel=1e-6, abs=1e-9), parameter_name


@pytest.mark.parametrize("name", ["anil", "maml"])
def test_second_order_terms_matter_to_the_gradient(name: str) -> None:
    """Were they negligible here, the comparison with finite differences would not tell first from second order."""
    learner, episode = learner_of(name), episode_of()
    full = gradients(learner, [episode])
    adapted = adapt(learner, episode)
    preference = adapted.preference.clone().requires_grad_()
    loss = ranking_loss(
        replace(adapted, preference=preference).scores(episode.query_history, past=episode.query_share),
        episode.relevant,
        episode.excluded,
    )
    first_order = torch.autograd.grad(loss, preference)[0]
    assert not torch.allclose(full["head.scene_preference"], first_order, rtol=0.05)


def by_hand(learner: Learner, episode: Episode) -> dict[str, Tensor]:
    """FOMAML's gradient in plain steps: a copy of the model moves by SGD, the query loss is derived at its end.

    Returns:
        ∂L(φ)/∂φ by name, and for the bias's own rate what its definition rate = inner_lr · exp(bias_rate) gives.
    """
    model, settings_ = copy.deepcopy(learner.model), learner.hyperparameters
    bias = torch.zeros(episode.candidates, dtype=episode.query_history.dtype, requires_grad=True)
    rate = settings_.inner_lr * float(model.head.bias_rate.detach().exp())
    moved = torch.zeros_like(bias)

    def scene() -> AdaptedScene:
        vectors, texts = vectors_of(model, episode), episode_texts(episode)
        encoding = model.head(vectors, episode.candidates, episode.support, texts, episode.held)
        return AdaptedScene(encoding, model.head.scene_preference, model.head.feature_weights, bias)

    def fresh_backward(loss: Tensor) -> None:
        model.zero_grad()
        bias.grad = None
        loss.backward()

    for _ in range(settings_.inner_steps):
        rows = []
        for shot, item in enumerate(episode.support.tolist()):
            visible = torch.ones(1, len(episode.support), dtype=bias.dtype)
            visible[0, shot] = 0
            scores = scene().scores(
                episode.support_history[shot : shot + 1], visible, episode.support_share[shot : shot + 1]
            )[0]
            rows.append(torch.logsumexp(scores, 0) - scores[item])
        fresh_backward(sum(rows) / len(rows))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.grad is not None and name != "head.bias_rate":
                    parameter -= settings_.inner_lr * parameter.grad
            bias -= rate * bias.grad
            moved -= rate * bias.grad
    fresh_backward(
        ranking_loss(
            scene().scores(episode.query_history, past=episode.query_share), episode.relevant, episode.excluded
        )
    )
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return found | {"head.bias_rate": (bias.grad * moved).sum()}


@pytest.mark.parametrize("seed", range(3))
def test_fomamls_gradient_is_that_of_the_query_loss_at_the_adapted_weights(seed: int) -> None:
    """The gradient at the weights before adaptation would be plain multi-task training under another name."""
    learner, episode = learner_of("fomaml", seed, inner_steps=3), episode_of(seed)
    expected = by_hand(learner, episode)
    found = gradients(learner, [episode])
    assert set(found) == set(expected) == {name for name, _ in learner.model.named_parameters()}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12, msg=name)
    assert float(found["head.bias_rate"].abs()) > 0


def functional_maml(learner: Learner, episode: Episode) -> dict[str, Tensor]:
    """MAML's gradient as a derivative of a pure function: nothing shared with the learner but the head itself."""
    model, values_ = learner.model, learner.hyperparameters
    shots = len(episode.support)

    def scores(weights: dict[str, Tensor], bias: Tensor, history: Tensor, visible: Tensor, past: Tensor) -> Tensor:
        vectors, texts = model.tower(episode.items), episode_texts(episode)
        inputs = (vectors, episode.candidates, episode.support, texts, episode.held)
        encoding = torch.func.functional_call(model.head, weights, inputs)
        scene = AdaptedScene(encoding, weights["scene_preference"], weights["feature_weights"], bias)
        return scene.scores(history, visible, past)

    def support(weights: dict[str, Tensor], bias: Tensor) -> Tensor:
        visible = 1 - torch.eye(shots, dtype=torch.float64)
        return functional.cross_entropy(
            scores(weights, bias, episode.support_history, visible, episode.support_share), episode.support
        )

    def query(weights: dict[str, Tensor]) -> Tensor:
        moved, bias = weights, torch.zeros(episode.candidates, dtype=torch.float64)
        for _ in range(values_.inner_steps):
            by_weight, by_bias = torch.func.grad(support, argnums=(0, 1))(moved, bias)
            moved = {n: w - values_.inner_lr * by_weight[n] if n != "bias_rate" else w for n, w in moved.items()}
            bias = bias - values_.inner_lr * weights["bias_rate"].exp() * by_bias
        everyone = torch.ones(len(episode.users), shots, dtype=torch.float64)
        found = scores(moved, bias, episode.query_history, everyone, episode.query_share).log_softmax(1)
        share = episode.relevant.double() / episode.relevant.sum(1, keepdim=True)
        return -(found * share).sum(1).mean()

    start = {name: p.detach() for name, p in model.head.named_parameters()}
    return {f"head.{name}": gradient for name, gradient in torch.func.grad(query)(start).items()}


@pytest.mark.parametrize("seed", range(3))
def test_mamls_gradient_equals_an_independent_one(seed: int) -> None:
    """Finite differences see six digits; a term of the second order can hide below them."""
    learner, episode = learner_of("maml", seed, inner_steps=3), episode_of(seed)
    found, expected = gradients(learner, [episode]), functional_maml(learner, episode)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-10, msg=name)


class Quadratic(nn.Module):
    """A model of one weight vector, whose tasks are quadratic bowls around targets of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))


@dataclass
class Bowl:
    """½ (w − target)ᵀ A (w − target), as support and as query."""

    model: Quadratic
    a: Tensor
    target: Tensor

    def start(self) -> dict[str, Tensor]:
        """The one weight."""
        return {"w": self.model.w}

    def rates(self) -> dict[str, Tensor]:
        """None of its own."""
        return {}

    def support_loss(self, weights: dict[str, Tensor], step: int = 0) -> Tensor:
        """The bowl."""
        off = weights.get("w", self.model.w) - self.target
        return 0.5 * off @ self.a @ off

    query_loss = support_loss

    def joint_loss(self) -> Tensor:
        """The bowl, where the model is."""
        return self.query_loss({})


class Bowls:
    """Makes bowls of their targets."""

    def meta_batch(self, model: Quadratic, targets: list[Tensor], adapts: str) -> AbstractContextManager[list[Bowl]]:
        """One for each target."""
        a = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]], dtype=torch.float64)
        return nullcontext([Bowl(model, a, target) for target in targets])


@pytest.mark.parametrize("kind", [FOMAML, MAML, Reptile, FineTune])
def test_on_a_quadratic_each_outer_gradient_is_its_closed_form(kind: type[Learner]) -> None:
    """The whole difference between these algorithms is one matrix: confusing two of them still trains."""
    model, targets = Quadratic(), [torch.full((3,), value, dtype=torch.float64) for value in (0.0, 2.0)]
    learner = kind(model, values("fomaml", inner_lr=0.3, inner_steps=4), Bowls())
    learner.meta_step(targets)
    (bowl, *_) = Bowls().meta_batch(model, targets, "").__enter__()
    shrink = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - 0.3 * bowl.a, 4)
    offset = model.w.detach() - sum(targets) / 2
    expected = {
        FOMAML: bowl.a @ shrink @ offset,
        MAML: shrink @ bowl.a @ shrink @ offset,
        Reptile: (offset - shrink @ offset) / (0.3 * 4),
        FineTune: bowl.a @ offset,
    }
    torch.testing.assert_close(model.w.grad, expected[kind])


def test_meta_sgd_starts_as_maml_on_the_head_and_its_rates_scale_each_weights_step() -> None:
    """A rate that is learned but not used, or used but not learned, would go unnoticed."""
    learner, episode = learner_of("metasgd", inner_steps=1), episode_of()
    with torch.no_grad():
        for rate in learner.model.head.inner_rates.values():
            rate.fill_(1.0)
    plain = scene_learner(learner.model, values("maml", inner_steps=1))
    torch.testing.assert_close(query_scores(learner, episode), query_scores(plain, episode))
    before = adapt(learner, episode).head["user.weight"]
    with torch.no_grad():
        learner.model.head.inner_rates["user/weight"][0].fill_(2.0)
    after, start = adapt(learner, episode).head["user.weight"], learner.model.head.user.weight.detach()
    torch.testing.assert_close(after[0] - start[0], 2 * (before[0] - start[0]))
    torch.testing.assert_close(after[1:], before[1:])


@pytest.mark.parametrize("name", EVERY)
def test_a_meta_batch_has_the_mean_of_its_episodes_gradients(name: str) -> None:
    """Encoding shared texts once must not mix up which vectors belong to which episode."""
    learner = learner_of(name)
    episodes = [episode_of(1), episode_of(2, shots=2, candidates=4), episode_of(3, others=0)]
    together = gradients(learner, episodes)
    single = [gradients(learner, [episode]) for episode in episodes]
    for parameter, gradient in together.items():
        torch.testing.assert_close(gradient, sum(one[parameter] for one in single) / 3, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_episodes_side_by_side_have_the_gradients_of_one_by_one(name: str) -> None:
    """Padded candidates, queries and histories of the smaller episodes must weigh nothing, to the last digit."""
    shapes = [(6, 5, 4), (4, 0, 2), (5, 7, 1), (6, 2, 3)]
    episodes = [episode_of(seed, candidates=c, others=o, queries=q) for seed, (c, o, q) in enumerate(shapes)]
    base = learner_of(name)
    alone, together = (
        gradients(scene_learner(base.model, base.hyperparameters, vmap_episodes=vmap_episodes), episodes)
        for vmap_episodes in (1, 4)
    )
    assert set(alone) == set(together)
    for parameter, gradient in alone.items():
        torch.testing.assert_close(together[parameter], gradient, rtol=1e-10, atol=1e-12, msg=parameter)


def test_small_episodes_run_side_by_side_and_large_ones_alone() -> None:
    """Side by side, large episodes would be slower and hold a meta-batch's memory at once."""
    shots = [3, 3, 3, 3, 2]
    assert side_by_side(shots, [10, 10, 10, 10, 10]) == [[4], [0, 1, 2, 3]]
    full = device_settings().vmap_elements
    assert side_by_side(shots, [full, full // 3, full // 3, 10, 10]) == [[4], [3, 1, 2], [0]]
    assert side_by_side(shots, [10] * 5, vmap_episodes=1) == [[4], [0], [1], [2], [3]]


@pytest.mark.parametrize("name", EVERY)
def test_meta_step_returns_the_outer_loss_and_adds_to_the_gradient(name: str) -> None:
    """Overwriting `.grad` would break accumulation; another loss than the one derived would hide divergence."""
    learner, episodes = learner_of(name), [episode_of(1), episode_of(2)]
    once = gradients(learner, episodes)
    # Reptile has no outer loss: it returns what its tasks start from.
    plain = ProtoNet(learner.model, Hyperparameters(), SceneTasks()) if name == "reptile" else learner
    assert learner.meta_step(episodes) == pytest.approx(outer_loss(plain, episodes), rel=1e-9)
    for parameter, gradient in once.items():
        torch.testing.assert_close(learner.model.get_parameter(parameter).grad, 2 * gradient)


@pytest.mark.parametrize("second_order", [False, True])
def test_descent_on_a_quadratic_equals_the_closed_form(second_order: bool) -> None:
    """w_n = w* + (I − rA)^n (w_0 − w*); its derivative by w_0 is (I − rA)^n in second order, I in first."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    a, target = root @ root.T / 3, torch.randn(3, generator=generator, dtype=torch.float64)
    start = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    other = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def loss(weights: dict[str, Tensor], step: int) -> Tensor:
        off = weights["w"] - target
        return 0.5 * off @ a @ off + 1.5 * weights["other"].square().sum()

    moved = descend(loss, {"w": start, "other": other}, {"w": rate}, 0.1, 4, second_order=second_order)
    shrink = torch.eye(3, dtype=torch.float64) - 0.2 * a
    power = torch.linalg.matrix_power(shrink, 4)
    torch.testing.assert_close(moved["w"], target + power @ (start.detach() - target))
    torch.testing.assert_close(moved["other"], torch.full((2,), (1 - 0.1 * 3) ** 4, dtype=torch.float64))
    by_start = torch.stack([torch.autograd.grad(w, start, retain_graph=True)[0] for w in moved["w"]])
    torch.testing.assert_close(by_start, power if second_order else torch.eye(3, dtype=torch.float64))
    by_rate = torch.stack([torch.autograd.grad(w, rate, retain_graph=True)[0] for w in moved["w"]])
    offsets = [torch.linalg.matrix_power(shrink, n) @ (start.detach() - target) for n in range(4)]
    first_order = -sum(a @ offset for offset in offsets)
    full = -4 * a @ offsets[3]
    torch.testing.assert_close(by_rate, full if second_order else first_order)
    assert start.grad is None
    torch.testing.assert_close(other, torch.ones(2, dtype=torch.float64))


def test_an_inner_step_reads_its_part_of_the_support_and_the_next_step_goes_on() -> None:
    """A batch that always began at the first interaction would throw most of the support away."""
    learner, episode = learner_of("anil"), episode_of(shots=5)
    vectors = learner.model.tower(episode.items)

    def loss(size: int | None, step: int) -> Tensor:
        task = SceneTasks(size).single(learner.model, episode, vectors, "score_weights", training=True)
        return task.support_loss(task.start(), step)

    singles = torch.stack([loss(1, shot) for shot in range(5)])
    for step, rows in enumerate([[0, 1], [2, 3], [4, 0], [1, 2]]):
        torch.testing.assert_close(loss(2, step), singles[rows].mean())
    for whole in (5, 64, None):
        torch.testing.assert_close(loss(whole, 3), singles.mean())


def test_a_weight_that_the_loss_does_not_read_stays() -> None:
    """The top layers' cached neighbours, say: a missing gradient must not stop the inner loop."""
    idle = torch.ones(2, requires_grad=True)
    used = torch.ones(1, requires_grad=True)
    moved = descend(lambda w, step: w["used"].sum(), {"used": used, "idle": idle}, {}, 0.5, 2, second_order=True)
    assert moved["idle"].tolist() == [1, 1]
    assert moved["used"].tolist() == [0]


def test_the_support_loss_hides_each_users_own_interaction() -> None:
    """A user who sees their own purchase in the support's counts leaves the inner loop nothing to learn."""
    learner, episode = learner_of("anil"), episode_of(shots=4)
    head, vectors = learner.model.head, learner.model.tower(episode.items)
    task = SceneTasks().single(learner.model, episode, vectors, "score_weights", training=True)
    bias = torch.linspace(-1, 1, episode.candidates, dtype=torch.float64)

    def scene(support: Tensor, texts: EpisodeTexts) -> AdaptedScene:
        return AdaptedScene(
            head(vectors, episode.candidates, support, texts, episode.held),
            head.scene_preference,
            head.feature_weights,
            bias,
        )

    losses = []
    for shot, item in enumerate(episode.support):
        rest = [other for other in range(len(episode.support)) if other != shot]
        texts = episode_texts(episode)._replace(overlap=episode.overlap[rest], fields=episode.fields[rest])
        without = scene(episode.support[rest], texts)
        scores = without.scores(episode.support_history[shot : shot + 1], past=episode.support_share[shot : shot + 1])
        losses.append(functional.cross_entropy(scores, item[None]))
    torch.testing.assert_close(task.support_loss({"bias": bias}), torch.stack(losses).mean())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_adapting_never_reads_the_relevance_nor_the_queries(name: str, training: bool) -> None:
    """The one leak that makes any recommender look good."""
    learner, episode = learner_of(name), episode_of()
    other = replace(episode, relevant=~episode.relevant, query_history=episode.query_history.flip(0, 1) + 1)
    a, b = adapt(learner, episode, training), adapt(learner, other, training)
    torch.testing.assert_close(
        a.scores(episode.query_history, past=episode.query_share),
        b.scores(episode.query_history, past=episode.query_share),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", EVERY)
def test_adapting_reads_the_support(name: str) -> None:
    """The opposite failure of a leak: an adaptation that does nothing."""
    learner, episode = learner_of(name), episode_of()
    other = replace(episode, support=(episode.support + 1) % episode.candidates)
    assert not torch.allclose(query_scores(learner, episode), query_scores(learner, other), atol=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_evaluation_leaves_no_graph_no_gradient_and_the_weights_as_they_were(name: str) -> None:
    """A kept graph fills the memory over thousands of episodes; a moved weight carries one scene into the next."""
    learner, episode = learner_of(name), episode_of()
    before = copy.deepcopy(learner.model.state_dict())
    adapted = adapt(learner, episode)
    tensors = [adapted.preference, adapted.feature_weights, adapted.bias, *adapted.head.values()]
    tensors += [*adapted.encoding]
    assert not any(tensor.requires_grad for tensor in tensors)
    first = adapted.scores(episode.query_history, past=episode.query_share)
    assert all(torch.equal(value, before[key]) for key, value in learner.model.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.model.parameters())
    assert all(parameter.requires_grad for parameter in learner.model.parameters())
    assert torch.equal(query_scores(learner, episode), first)


@pytest.mark.parametrize("name", EVERY)
def test_training_and_evaluation_adapt_alike(name: str) -> None:
    """Two paths to one adaptation drift apart easily, and then what is trained is not what is measured."""
    learner, episode = learner_of(name), episode_of()
    trained = adapt(learner, episode, training=True).scores(episode.query_history, past=episode.query_share)
    torch.testing.assert_close(trained.detach(), query_scores(learner, episode), rtol=1e-10, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(EVERY), st.integers(0, 1000), st.permutations(range(5)))
def test_the_order_of_the_support_does_not_matter(name: str, seed: int, order: list[int]) -> None:
    """Purchases of the same second have no order: a score that depends on it is noise."""
    learner, episode = learner_of(name, seed), episode_of(seed, shots=5)
    permuted = replace(
        episode,
        support=episode.support[order],
        support_history=episode.support_history[order],
        support_past=episode.support_past[order],
        support_past_total=episode.support_past_total[order],
        overlap=episode.overlap[order],
        fields=episode.fields[order],
    )
    torch.testing.assert_close(query_scores(learner, permuted), query_scores(learner, episode), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_one_shot_is_enough(name: str) -> None:
    """With one interaction, hiding a user's own leaves an empty memory: the log of nothing must stay finite."""
    learner, episode = learner_of(name), episode_of(shots=1)
    found = gradients(learner, [episode])
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())
    assert bool(query_scores(learner, episode).isfinite().all())


@torch.no_grad()
def test_scores_equal_their_definition_term_by_term() -> None:
    """Histories as matrix products are fast and easily transposed; plain loops over items are neither."""
    episode = episode_of()
    head = learner_of("anil").model.head
    vectors = learner_of("anil").model.tower(episode.items)
    bias = torch.linspace(-1, 1, episode.candidates, dtype=torch.float64)
    encoding = head(vectors, episode.candidates, episode.support, episode_texts(episode), episode.held)
    found = AdaptedScene(encoding, head.scene_preference, head.feature_weights, bias)
    weights = head.feature_weights.tolist()
    points = [functional.normalize(head.project.weight @ vector, dim=0) for vector in vectors]
    sharp_history, sharp_support, sharp_words, sharp_fields = head.sharpness.exp().tolist()
    scores = found.scores(episode.query_history, past=episode.query_share).tolist()
    parts, totals = head.elsewhere[:-1].softmax(0), episode.elsewhere_total
    for user, history in enumerate(episode.query_history.int().tolist()):
        bag = [item for item, count in enumerate(history) for _ in range(count)]
        for c in range(episode.candidates):
            affinity = sum(float((head.user.weight @ points[i]) @ points[c]) for i in bag) / max(1, len(bag))
            match = sum(float(((points[i] @ points[c] - 1) * sharp_history).exp()) for i in bag)
            shots = episode.support.tolist()
            near = sum(float(((points[s] @ points[c] - 1) * sharp_support).exp()) for s in shots)
            words = sum(float(((row[c] - 1) * sharp_words).exp()) for row in episode.overlap)
            fields = sum(float(((row[c] - 1) * sharp_fields).exp()) for row in episode.fields)
            logs = torch.tensor([match, shots.count(c), near, words, fields], dtype=torch.float64).log1p().tolist()
            expected = 5 * weights[0] * affinity + sum(w * log for w, log in zip(weights[1:6], logs, strict=True))
            text = weights[7] * float(encoding.candidate_features[c, 0])
            text += sum(w * term for w, term in zip(weights[8:-1], episode.terms[c].tolist(), strict=True))
            popular = sum(
                float(part) * n / total for part, n, total in zip(parts, episode.elsewhere[c], totals, strict=True)
            )
            own = int(episode.query_past[user, c]) / float(episode.query_past_total[user])
            unknown = UNKNOWN * math.exp(min(text, MOST_BY_TEXT))
            expected += weights[-1] * math.log(own + math.exp(head.elsewhere[-1]) * popular + unknown)
            expected += 5 * weights[6] * float(head.scene_preference @ points[c]) + float(bias[c])
            assert scores[user][c] == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
def test_texts_say_how_well_an_item_sells_that_nobody_has_taken_and_hardly_of_others() -> None:
    """As a factor, what suits the thousands of items in the tail reorders the few at the top, which everybody took."""
    text, known = torch.tensor([0.0, 4.0, 0.0, 4.0]), torch.tensor([[0.0, 0.0, 0.02, 0.01]])
    weights = FeatureWeights(torch.tensor([*[0.0] * 7, 1.0, *[0.0] * len(TERMS), 1.0]))
    features = torch.cat([text[:, None], torch.zeros(4, len(TERMS))], dim=1)
    nothing = torch.zeros(6, 1, 4)

    def order(elsewhere: torch.Tensor) -> list[int]:
        made = ScoreFeatures(features, nothing, torch.zeros(4, 2), elsewhere)
        scores: torch.Tensor = made.scores(weights, torch.zeros(2), torch.zeros(4))
        return scores[0].argsort(descending=True, stable=True).tolist()

    assert order(known) == [2, 3, 1, 0]
    assert order(torch.zeros(1, 0)) == [1, 3, 0, 2]


def test_the_ranking_loss_averages_over_relevant_items_then_queries() -> None:
    """Averaged over all pairs, users with long lists would drown the others."""
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    relevant = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 1, 0, 1]]).bool()
    rows = []
    for row, wanted in zip(scores, relevant, strict=True):
        total = sum(float(s.exp()) for s in row)
        picked = [-float(torch.log(s.exp() / total)) for s, w in zip(row, wanted, strict=True) if w]
        rows.append(sum(picked) / len(picked))
    nothing = torch.zeros_like(relevant)
    assert float(ranking_loss(scores, relevant, nothing)) == pytest.approx(sum(rows) / 3)


def test_a_candidate_that_is_not_ranked_has_no_part_in_the_loss() -> None:
    """Pushing down what the user owns already would teach that what they own is what they dislike."""
    scores = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    relevant = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0]]).bool()
    excluded = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 0, 1, 0]]).bool()
    loss = ranking_loss(scores, relevant, excluded)
    without = [
        ranking_loss(
            scores[row : row + 1, ~mask], relevant[row : row + 1, ~mask], excluded[:1, : int((~mask).sum())] & False
        )
        for row, mask in enumerate(excluded)
    ]
    assert float(loss.detach()) == pytest.approx(float(sum(without).detach()) / 2)
    loss.backward()
    assert not scores.grad[excluded].any()


@pytest.fixture(scope="module")
def encoder_learner(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Learner]:
    """Learners whose tower trains the top two layers of a real (tiny) encoder over its cached hidden states."""
    folder: Path = tmp_path_factory.mktemp("encoder")
    encoder = load(TeacherSection(encoder=str(tiny_encoder(folder / "model"))))
    texts = [f"{COLOURS[i % 6]} {BRANDS[i // 6]}{' small' * (i % 3)} {SCENES[i % 2]}" for i in range(ITEMS)]
    cache = ActivationCache(folder / "cache", encoder, tokenize(encoder.tokenizer, texts, 16))
    cache.build({0, 2})

    def made(name: str, vmap_episodes: int | None = None) -> Learner:
        torch.manual_seed(0)
        hyperparameters = values(name, inner_lr=0.1, layers=2)
        head = Head(encoder.width, SIZE, learned_rates=hyperparameters.entry.learns_inner_rates)
        return scene_learner(
            Recommender(build_tower(encoder, cache, 2, "eager"), head), hyperparameters, vmap_episodes=vmap_episodes
        )

    return made


def single(episode: Episode) -> Episode:
    return replace(
        episode, support_history=episode.support_history.float(), query_history=episode.query_history.float()
    )


@pytest.mark.parametrize("name", EVERY)
def test_the_encoders_top_layers_receive_gradients(encoder_learner: Callable[[str], Learner], name: str) -> None:
    """A tower that is called under no_grad trains as well as a frozen one, at many times its cost."""
    learner = encoder_learner(name)
    found = gradients(learner, [single(episode_of())])
    layers = {parameter for parameter, _ in learner.model.tower.named_parameters()}
    assert len(layers) == 2 * 16
    # The key's bias shifts all of a row's attention logits alike: its true gradient is zero.
    moving = {f"tower.{parameter}" for parameter in layers if not parameter.endswith("key.bias")}
    assert moving <= set(found)
    assert all(float(found[parameter].abs().max()) > 0 for parameter in moving)


@pytest.mark.parametrize("name", EVERY)
def test_episodes_side_by_side_have_the_gradients_of_one_by_one_with_an_encoder_that_adapts(
    encoder_learner: Callable[..., Learner], name: str
) -> None:
    """Padding that leaks into attention, or another episode's fast weights, would train something else, quietly."""
    episodes = [single(episode_of(1)), single(episode_of(2, candidates=4, others=0)), single(episode_of(3, queries=2))]
    with full_precision():
        alone, together = (gradients(encoder_learner(name, vmap_episodes), episodes) for vmap_episodes in (1, 3))
    assert set(alone) == set(together)
    for parameter, gradient in alone.items():
        torch.testing.assert_close(together[parameter], gradient, rtol=2e-4, atol=2e-6, msg=parameter)


def test_fomaml_adapts_the_top_layers_and_its_gradient_is_taken_there(
    encoder_learner: Callable[[str], Learner],
) -> None:
    """Adapting the head over vectors of the unadapted tower would be ANIL's cost for less than ANIL."""
    learner, episode = encoder_learner("fomaml"), single(episode_of())
    with full_precision():
        vectors = vectors_of(learner.model, episode)[: episode.candidates]
        expected = by_hand(learner, episode)
        found = gradients(learner, [episode])
        adapted = adapt(learner, episode)
    head_alone = functional.normalize(vectors @ adapted.head["project.weight"].T, dim=1)
    assert not torch.allclose(adapted.encoding.candidate_vectors, head_alone, atol=1e-3)
    assert set(found) == set(expected)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=2e-3, atol=2e-5, msg=name)


def test_anil_and_protonet_leave_the_tower_to_the_outer_loop(
    encoder_learner: Callable[[str], Learner],
) -> None:
    """Their adaptation reads the vectors it is given; encoding again per scene would cost them their point."""
    for name in ("anil", "protonet"):
        learner, episode = encoder_learner(name), single(episode_of())
        vectors = torch.randn(len(episode.items), 32, generator=torch.Generator().manual_seed(0))
        targets = learner.adapt(episode, vectors).encoding.candidate_vectors
        expected = functional.normalize(vectors[: episode.candidates] @ learner.model.head.project.weight.T, dim=1)
        torch.testing.assert_close(targets, expected.detach())

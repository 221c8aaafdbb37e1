"""Our recommender in the inner loops of learn2learn, higher and torchopt.

Each library adapts an `nn.Module` by its own means; the module is made of the learner's own tower and head, so that
the outer gradient lands in the same `.grad`. A peer reads each text once per pass, from the same cached states, takes
the features of an ANIL task once, and reads for the support no more than the support needs, as ours does. What is ours
alone is what is compared: episodes side by side, and texts in groups of similar length.

None of the libraries gives one parameter a rate of its own, let alone a learned one. The bias of our scenes moves at
inner_lr · exp(r); a parameter b that moves at inner_lr and counts as exp(r/2) · b is the same bias, step by step.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.episodes.episode import Episode
from studies.learners.registry import LEARNERS
from studies.learners.tasks.losses import ranking_loss
from studies.model.recommender import Head, Recommender
from studies.model.scene_encoding import AdaptedScene, SceneEncoding, episode_texts
from studies.model.towers import TopLayersTower, Tower, in_groups

Loss = Callable[[nn.Module], Tensor]


class View(NamedTuple):
    """What one pass scores: the candidates of an episode, for rows of histories.

    Attributes:
        episode: the episode, or what its support reads of it.
        history: (R, M).
        visible: (R, K), of the support; all of it if None.
        encoding: the head's encoding, where that does not adapt.
        groups: the candidates' texts as they enter the layers that train, where there are such layers.
    """

    episode: Episode
    history: Tensor
    visible: Tensor | None = None
    encoding: SceneEncoding | None = None
    groups: list[Any] | None = None


class Whole(nn.Module):
    """All that MAML adapts: encoder layers, head and bias.

    The tower around the layers stays out: higher copies its buffers with every task, and it may hold a compiled form of
    the layers, which no library could adapt. So does the bias's rate, which only the outer loop moves.
    """

    def __init__(self, model: Recommender, candidates: int) -> None:
        super().__init__()
        self._tower = (model.tower,)
        self.top_layers = getattr(model.tower, "top_layers", model.tower)
        self.head = copy.copy(model.head)
        self.head._parameters = {name: p for name, p in model.head._parameters.items() if name != "bias_rate"}
        self.bias = nn.Parameter(torch.zeros(candidates).to(model.head.scene_preference))

    def forward(self, view: View, scale: Tensor) -> Tensor:
        """(R, C) scores."""
        (tower,) = self._tower
        if view.groups:
            vectors = with_others(tower, view.episode, in_groups(self.top_layers, view.groups))
        else:
            vectors = self.top_layers(view.episode.items)
        encoding = encode(self.head, vectors, view.episode)
        bias = scale * self.bias[: view.episode.candidates]
        scene = AdaptedScene(encoding, self.head.scene_preference, self.head.feature_weights, bias)
        return scene.scores(view.history, view.visible)


class Tail(nn.Module):
    """All that ANIL adapts: preference, feature weights and bias."""

    def __init__(self, model: Recommender, candidates: int) -> None:
        super().__init__()
        self.preference, self.feature_weights = model.head.scene_preference, model.head.feature_weights
        self.bias = nn.Parameter(torch.zeros(candidates).to(self.preference))

    def forward(self, view: View, scale: Tensor) -> Tensor:
        """(R, C) scores."""
        assert view.encoding is not None
        bias = scale * self.bias[: view.episode.candidates]
        scene = AdaptedScene(view.encoding, self.preference, self.feature_weights, bias)
        return scene.scores(view.history, view.visible)


def with_others(tower: Tower, episode: Episode, candidates: Tensor) -> Tensor:
    """(M, D) vectors of all items: what only histories hold is looked up among the pretrained encoder's."""
    return torch.cat([candidates, tower.locked[episode.items[episode.candidates :]].to(candidates)])


def encode(head: Head, vectors: Tensor, episode: Episode) -> SceneEncoding:
    """The head's encoding of an episode."""
    return head(vectors, episode.candidates, episode.support, episode_texts(episode), episode.held)


def of_support(episode: Episode) -> Episode:
    """The episode without the items that only its queries' histories hold."""
    held = episode.held[episode.support_columns]
    needed = torch.zeros_like(episode.items, dtype=torch.bool)
    needed[: episode.candidates] = needed[held] = True
    history = episode.support_history[:, episode.support_columns]
    return replace(episode, items=episode.items[needed], held=needed.cumsum(0)[held] - 1, support_history=history)


class Peer(ABC):
    """Meta-trains and adapts a recommender as a learner does, by a library's means.

    Args:
        model: the recommender, whose gradients `meta_step` adds to.
        hyperparameters: of the learner that this stands for.
        candidates: the most that an episode has.
    """

    name: ClassVar[str]

    def __init__(self, model: Recommender, hyperparameters: Any, candidates: int) -> None:
        self.model, self.hyperparameters = model, hyperparameters
        entry = LEARNERS[hyperparameters.learner]
        self.second_order = entry.second_order
        self.network: nn.Module = (Tail if entry.adapts == "score_weights" else Whole)(model, candidates)

    @abstractmethod
    def accumulate(self, support: Loss, query: Loss, weight: float) -> Tensor:
        """Adds one task's part of the outer gradient; returns the query's loss after adapting to the support."""

    def meta_step(self, episodes: Sequence[Episode]) -> float:
        """As `Learner.meta_step`."""
        weight, total = 1 / len(episodes), 0.0
        for episode in episodes:
            support, query = self.views(episode)
            losses = partial(self.support_loss, support), partial(self.query_loss, query)
            total += float(self.accumulate(*losses, weight).detach())
        return total * weight

    def support_loss(self, view: View, network: nn.Module) -> Tensor:
        """As `SceneTask.support_loss`."""
        return functional.cross_entropy(network(view, self.scale()), view.episode.support)

    def query_loss(self, view: View, network: nn.Module) -> Tensor:
        """As `SceneTask.query_loss`."""
        return ranking_loss(network(view, self.scale()), view.episode.relevant, view.episode.excluded)

    def views(self, episode: Episode) -> tuple[View, View]:
        """What the support's loss and the query's score."""
        visible = 1 - torch.eye(len(episode.support)).to(self.model.head.scene_preference)
        tower, candidates = self.model.tower, episode.items[: episode.candidates]
        if isinstance(self.network, Tail):
            encoding = encode(self.model.head, with_others(tower, episode, tower(candidates)), episode)
            support = View(episode, episode.support_history, visible, encoding)
            return support, View(episode, episode.query_history, None, encoding)
        groups = None
        if isinstance(tower, TopLayersTower):
            # Padded to the longest, as a tokenizer pads a batch; taken once per task.
            groups = [(torch.arange(len(candidates)), *tower.texts(candidates))]
        part = of_support(episode)
        support = View(part, part.support_history, visible, groups=groups)
        return support, View(episode, episode.query_history, groups=groups)

    def scale(self) -> Tensor:
        """exp(r/2). In first order b is a constant to r, which halves the derivative of the bias: doubled here."""
        rate = self.model.head.bias_rate
        return (rate / 2 if self.second_order else rate - rate.detach() / 2).exp()


class Learn2Learn(Peer):
    """`MAML.clone` and `adapt`, as its documentation shows."""

    name = "learn2learn"

    def __init__(self, model: Recommender, hyperparameters: Any, candidates: int) -> None:
        super().__init__(model, hyperparameters, candidates)
        from learn2learn.algorithms.maml import MAML

        self._maml = MAML(self.network, lr=hyperparameters.inner_lr, first_order=not self.second_order)

    def accumulate(self, support: Loss, query: Loss, weight: float) -> Tensor:
        """As documented."""
        loss = query(self.adapted(support))
        (weight * loss).backward()
        return loss

    def adapted(self, support: Loss) -> nn.Module:
        """The module after the inner steps."""
        clone = self._maml.clone()
        for _ in range(self.hyperparameters.inner_steps):
            clone.adapt(support(clone))
        return clone

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) after adapting to the support, for `studies.evaluation.evaluate.evaluate`."""
        support, query = self.views(episode)
        adapted = self.adapted(partial(self.support_loss, support))
        with torch.no_grad():
            return adapted(query, self.scale())


class Higher(Peer):
    """`innerloop_ctx`; in first order without tracking, so that its fast weights are leaves."""

    name = "higher"

    def __init__(self, model: Recommender, hyperparameters: Any, candidates: int) -> None:
        super().__init__(model, hyperparameters, candidates)
        import higher

        sgd = torch.optim.SGD(self.network.parameters(), lr=hyperparameters.inner_lr)
        self._loop = partial(
            higher.innerloop_ctx,
            self.network,
            sgd,
            copy_initial_weights=False,
            track_higher_grads=self.second_order,
        )

    def accumulate(self, support: Loss, query: Loss, weight: float) -> Tensor:
        """As documented; in first order the gradients at the fast weights are the outer ones."""
        with self._loop() as (network, optimizer):
            for _ in range(self.hyperparameters.inner_steps):
                optimizer.step(support(network))
            loss = query(network)
            (weight * loss).backward()
            if not self.second_order:
                hand_over(list(network.fast_params), list(self.network.parameters()))
        return loss


class TorchOpt(Peer):
    """`MetaSGD` on the module itself, whose state is put back after each task."""

    name = "torchopt"

    def __init__(self, model: Recommender, hyperparameters: Any, candidates: int) -> None:
        super().__init__(model, hyperparameters, candidates)
        import torchopt

        self._torchopt = torchopt
        self._optimizer = torchopt.MetaSGD(self.network, lr=hyperparameters.inner_lr)

    def accumulate(self, support: Loss, query: Loss, weight: float) -> Tensor:
        """As documented; it has no first order but `stop_gradient` after each step."""
        start = self._torchopt.extract_state_dict(self.network)
        begun = self._torchopt.extract_state_dict(self._optimizer)
        originals = list(self.network.parameters())
        for _ in range(self.hyperparameters.inner_steps):
            self._optimizer.step(support(self.network))
            if not self.second_order:
                self._torchopt.stop_gradient(self.network)
        loss = query(self.network)
        (weight * loss).backward()
        if not self.second_order:
            hand_over(list(self.network.parameters()), originals)
        self._torchopt.recover_state_dict(self.network, start)
        self._torchopt.recover_state_dict(self._optimizer, begun)
        return loss


def hand_over(adapted: Sequence[Tensor], originals: Sequence[Tensor]) -> None:
    """Adds the gradients at adapted weights to the original ones'."""
    for moved, original in zip(adapted, originals, strict=True):
        if moved is not original and moved.grad is not None:
            original.grad = moved.grad if original.grad is None else original.grad + moved.grad


PEERS: tuple[type[Peer], ...] = (Learn2Learn, Higher, TorchOpt)

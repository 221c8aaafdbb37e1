"""Episodes as tasks: which weights of the recommender adapt to them, and the two losses of these weights.

A learner is an algorithm over tasks and knows nothing else of the recommender. There are two kinds of task:
`frozen_encoder` starts from the candidates' vectors, `adapted_encoder` from the states of their tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import functional_call

from studies.learners.inner_loop import Weights, detached
from studies.learners.registry import AdaptedParameters
from studies.learners.tasks.inputs import Inputs, UserRole
from studies.learners.tasks.losses import choice_loss, ranking_loss
from studies.model.adapting_model import INNER_RATES
from studies.model.recommender import Recommender
from studies.model.scene_encoding import AdaptedScene, FeatureWeights, SceneEncoding, ScoreFeatures

Result = TypeVar("Result")

# The head's weights that a score is linear in: features stay as they are while only these and the bias adapt.
SCORE_WEIGHTS = ("head.scene_preference", "head.feature_weights")
# Weights of the outer loop alone: they are the rates of others.
_RATES = ("bias_rate", INNER_RATES)


@dataclass(kw_only=True, eq=False)
class SceneTask(ABC):
    """One episode, or E of them side by side: a `studies.learners.inner_loop.Task`.

    Attributes:
        model: The recommender that adapts; its weights are read, never changed.
        inputs: The episodes.
        unadapted: Gives the candidates' vectors from the unadapted tower, (C, D) or (E, C, D).
        adapts: What adapts.
        training: Whether to keep the graph that the outer loop differentiates.
        support_batch_size: Interactions of the support per inner step; None for all of them.
        episodes: E; None for one episode without a leading axis.
    """

    model: Recommender
    inputs: Inputs
    unadapted: Callable[[], Tensor]
    adapts: AdaptedParameters
    training: bool
    support_batch_size: int | None
    episodes: int | None

    def start(self) -> Weights:
        """Return the weights that adapt; the bias of each candidate starts at zero."""
        if self.adapts == "nothing":
            return {}
        named: Weights = {
            name: p if self.episodes is None else p.expand(self.episodes, *p.shape)
            for name, p in self.model.named_parameters()
            if p.requires_grad and _is_adapted(name, self.adapts)
        }
        like = self.model.head.scene_preference
        bias = torch.zeros(self.inputs.present.shape, dtype=like.dtype, device=like.device)
        return (named if self.training else detached(named)) | {"bias": bias.requires_grad_()}

    def rates(self) -> Mapping[str, Tensor]:
        """Return the learned rate of the bias, whose gradient is spread over K interactions, over `inner_lr`."""
        rate = self.model.head.bias_rate.exp()
        return {"bias": rate if self.training else rate.detach()}

    def support_loss(self, weights: Weights, step: int = 0) -> Tensor:
        """Return the cross-entropy of the support's interactions over the candidates, of those in the step's batch.

        Each support user sees all interactions but their own: their own is the label, and seeing it would leave
        nothing to learn.
        """
        shots, rows = self.inputs.support.shape[-1], self._batch(step)

        def loss(weights: Weights, inputs: Inputs, features: ScoreFeatures) -> Tensor:
            scores, chosen = self._scores(weights, inputs, features), inputs.support
            if len(rows) < shots:
                scores, chosen = scores[rows], chosen[rows]
            return choice_loss(scores, chosen, inputs.present)

        return self._each(loss)(weights, self.inputs, self._score_features(weights, "support_users"))

    def query_loss(self, weights: Weights) -> Tensor:
        """Return the `ranking_loss` of the queries."""

        def loss(weights: Weights, inputs: Inputs, features: ScoreFeatures) -> Tensor:
            unranked = inputs.excluded | ~inputs.present
            return ranking_loss(self._scores(weights, inputs, features), inputs.relevant, unranked, inputs.query_mask)

        return self._each(loss)(weights, self.inputs, self._score_features(weights, "query_users"))

    def joint_loss(self) -> Tensor:
        """Return the loss of the queries without adaptation."""
        return self.query_loss({})

    def adapted(self, weights: Weights) -> AdaptedScene:
        """Return the scene under some weights, to rank for any user; those left out are the model's own.

        Of one episode only.
        """
        # Without queries, as in serving, histories are encoded with each request: the encoding of any users will do.
        role: UserRole = "query_users" if len(self.inputs.query_mask) else "support_users"
        encoding = self._encode(weights, self.inputs, role, self._candidate_vectors(weights))
        return AdaptedScene(
            encoding=encoding,
            preference=self._head_weight(weights, "scene_preference"),
            feature_weights=self._head_weight(weights, "feature_weights"),
            bias=self._bias(weights, self.inputs),
            head=of_head(weights),
        )

    @abstractmethod
    def _candidate_vectors(self, weights: Weights) -> Tensor:
        """Return the candidates' vectors under some weights, (C, D) or (E, C, D)."""

    @cached_property
    def _unadapted_vectors(self) -> Tensor:
        return self.unadapted() if self.training else self.unadapted().detach()

    def _score_features(self, weights: Weights, role: UserRole) -> ScoreFeatures:
        """Return what the users' scores are made of, under some weights."""

        def features(weights: Weights, inputs: Inputs, vectors: Tensor) -> ScoreFeatures:
            encoding = self._encode(weights, inputs, role, vectors)
            users, shots = inputs.users(role), encoding.support_kernels.shape[1]
            visible = torch.ones(len(users.history), shots, dtype=users.history.dtype, device=users.history.device)
            if role == "support_users":
                visible.fill_diagonal_(0)
            return encoding.score_features(users.history, visible, users.past)

        return self._each(features)(weights, self.inputs, self._candidate_vectors(weights))

    def _encode(self, weights: Weights, inputs: Inputs, role: UserRole, vectors: Tensor) -> SceneEncoding:
        """Return the head's encoding of one episode."""
        users = inputs.users(role)
        everything = torch.cat([vectors, users.others])
        arguments = (everything, len(vectors), inputs.support, inputs.texts, users.held, inputs.present)
        encoding: SceneEncoding = functional_call(self.model.head, of_head(weights), arguments)
        return encoding

    def _batch(self, step: int) -> Tensor:
        """Return the numbers of the support's interactions in a step's batch."""
        shots = self.inputs.support.shape[-1]
        size = min(self.support_batch_size or shots, shots)
        return (torch.arange(size, device=self.inputs.support.device) + step * size) % shots

    def _scores(self, weights: Weights, inputs: Inputs, features: ScoreFeatures) -> Tensor:
        """Return the (R, C) scores of some users of one episode."""
        feature_weights = FeatureWeights(self._head_weight(weights, "feature_weights"))
        return features.scores(
            feature_weights, self._head_weight(weights, "scene_preference"), self._bias(weights, inputs)
        )

    def _head_weight(self, weights: Weights, name: str) -> Tensor:
        """Return a weight of the head, the model's own where it does not adapt."""
        own = self.model.head.get_parameter(name)
        return weights.get(f"head.{name}", own if self.training else own.detach())

    def _bias(self, weights: Weights, inputs: Inputs) -> Tensor:
        return weights["bias"] if "bias" in weights else torch.zeros_like(inputs.texts.terms[:, 0])

    def _each(self, of_one: Callable[..., Result]) -> Callable[..., Result]:
        """Return a function of one episode as a function of all of the task's."""
        return of_one if self.episodes is None else torch.vmap(of_one)


def only_score_weights(weights: Weights) -> bool:
    """Return whether the adapted weights leave the score's features as they are."""
    return weights.keys() <= {*SCORE_WEIGHTS, "bias"}


def of_head(weights: Weights) -> Weights:
    """Return the adapted weights of the head, by their names there."""
    return {name.removeprefix("head."): w for name, w in weights.items() if name.startswith("head.")}


def _is_adapted(name: str, adapts: AdaptedParameters) -> bool:
    if adapts == "score_weights":
        return name in SCORE_WEIGHTS
    is_rate = any(piece in _RATES for piece in name.split("."))
    return not is_rate and (adapts == "everything" or name.startswith("head."))

"""The task of a scene in service: it starts from a catalogue that was projected before the scene was known.

Its loss is that of `scene_task.SceneTask`, but the gradient is written out (`support_gradient`), nothing that steps
leave as it was is computed again, and there are no queries, graphs and padding. A learner finds no difference.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from studies.learners.inner_loop import Weights
from studies.learners.tasks.frozen_encoder import FrozenEncoderTask
from studies.learners.tasks.inputs import Inputs, Users
from studies.learners.tasks.scene_task import SceneTask, of_head, only_score_weights
from studies.learners.tasks.support_gradient import (
    WRITTEN_OUT,
    SceneState,
    head_gradients,
    score_gradients,
)
from studies.model.projected_items import ProjectedItems, directions_of
from studies.model.scene_encoding import (
    AdaptedScene,
    EpisodeTexts,
    FeatureWeights,
    SceneEncoding,
    history_match,
    mixed_popularity,
    support_kernels,
)

_LARGE = ("head.project.weight", "head.appeal.0.weight")


class ServedScene(NamedTuple):
    """A scene to adapt to.

    Attributes:
        inputs: As of an episode without queries.
        items: The candidates, projected by the weights that the head was trained to.
    """

    inputs: Inputs
    items: ProjectedItems

    @classmethod
    def of(cls, items: ProjectedItems, support: Tensor, texts: EpisodeTexts, users: Users) -> ServedScene:
        """Return a scene of C candidates and K interactions.

        Args:
            items: The candidates.
            support: (K,) positions of the support's items.
            texts: Features of the candidates' texts.
            users: The users of the support, whose histories list their items apart.
        """
        none = torch.zeros(0, len(items.lengths), dtype=torch.bool, device=support.device)
        nobody = users._replace(history=users.history[:0], past=users.past[:0])
        present = torch.ones(len(items.lengths), dtype=torch.bool, device=support.device)
        return cls(Inputs(present, support, texts, users, nobody, none, none, users.history.new_empty(0)), items)


@dataclass(kw_only=True, eq=False)
class ServedTask(SceneTask):
    """Adapts a head to a scene in service; the head itself stays as it is, so that several threads adapt one.

    Attributes:
        items: The candidates, projected by the head's own weights.
    """

    items: ProjectedItems
    # Weights that were not moved yet are known by identity.
    _start: Weights = field(default_factory=dict, init=False)

    def start(self) -> Weights:
        """See `SceneTask.start`."""
        self._start = super().start()
        return self._start

    def support_loss(self, weights: Weights, step: int = 0) -> Tensor:
        """Return what `SceneTask.support_loss` does, with a gradient that is written out."""
        if not of_head(weights).keys() <= WRITTEN_OUT:
            return self._by_autograd.support_loss(weights, step)
        loss: Tensor = _SupportLoss.apply(self, step, tuple(weights), *weights.values())  # type: ignore[no-untyped-call]
        return loss

    def loss_and_slopes(self, weights: Weights, step: int) -> tuple[Tensor, Tensor, SceneState]:
        """Return the loss of the support, (K, C) its gradient with respect to the scores, and the scene."""
        state = self._unadapted if only_score_weights(weights) else self._state(weights)
        head, bias = {**state.head, **of_head(weights)}, self._bias(weights, self.inputs)
        scores = state.features.scores(FeatureWeights(head["feature_weights"]), head["scene_preference"], bias)
        logs, taken, rows = scores.log_softmax(1), state.encoding.support_kernels[0], self._batch(step)
        share = logs.new_zeros(len(logs), 1).index_fill_(0, rows, 1 / len(rows))
        return -(share * taken * logs).sum(), logs.exp_().sub_(taken).mul_(share), state

    def gradients(self, weights: Weights, slopes: Tensor, state: SceneState) -> Weights:
        """Return the gradient of the loss with respect to each weight, given what `loss_and_slopes` returned."""
        head = {**state.head, **of_head(weights)}
        found, by_text, popularity = score_gradients(state.features, head, slopes)
        if not only_score_weights(weights):
            found |= head_gradients(state, self.inputs, slopes, by_text, popularity, of_head(weights).keys())
        return {name: found[name.removeprefix("head.")] for name in weights}

    def adapted(self, weights: Weights) -> AdaptedScene:
        """See `SceneTask.adapted`; histories are encoded with each request."""
        if not of_head(weights).keys() <= WRITTEN_OUT:
            return self._by_autograd.adapted(weights)
        head = self._head(weights)
        encoding = self._encoding(head, self.items.under(head))
        preference, bias = head["scene_preference"], self._bias(weights, self.inputs)
        return AdaptedScene(encoding, preference, head["feature_weights"], bias, of_head(weights))

    def _candidate_vectors(self, weights: Weights) -> Tensor:
        return self.items.vectors

    @cached_property
    def _by_autograd(self) -> SceneTask:
        """The task of weights whose gradient is not written out; it swaps weights in its model, which others read."""
        return FrozenEncoderTask(
            model=copy.deepcopy(self.model),
            inputs=self.inputs,
            unadapted=self.unadapted,
            adapts=self.adapts,
            training=False,
            support_batch_size=self.support_batch_size,
            episodes=None,
        )

    @cached_property
    def _unadapted_encoding(self) -> SceneEncoding:
        return self._encode_candidates(self.items.head, self.items)

    @cached_property
    def _unadapted(self) -> SceneState:
        return self._state({})

    def _head(self, weights: Weights) -> Weights:
        """Return all weights of the head; of those that did not move yet, its own tensors."""
        moved = {name: w for name, w in weights.items() if w is not self._start.get(name)}
        return {**self.items.head, **of_head(moved)}

    def _state(self, weights: Weights) -> SceneState:
        """Return the scene under some weights."""
        head, users = self._head(weights), self.inputs.support_users
        items = self.items.under(head)
        lengths, held = directions_of(users.others @ head["project.weight"].T)
        encoding = self._encoding(head, items)._replace(
            profiles=functional.linear(held, head["user.weight"]),
            history_match=history_match(held, items.directions, head["sharpness"]),
        )
        # No user sees their own interaction.
        visible = 1 - torch.eye(len(users.history), dtype=held.dtype, device=held.device)
        features = encoding.score_features(users.history, visible, users.past)
        return SceneState(head, items, lengths, held, encoding, features)

    def _encoding(self, head: Weights, items: ProjectedItems) -> SceneEncoding:
        """Return the scene's encoding without histories, which is made once while it stays as it was."""
        own = self.items.head
        same = items is self.items and all(head.get(name) is own.get(name) for name in ("sharpness", "elsewhere"))
        return self._unadapted_encoding if same else self._encode_candidates(head, items)

    def _encode_candidates(self, head: Mapping[str, Tensor], items: ProjectedItems) -> SceneEncoding:
        support, texts, directions = self.inputs.support, self.inputs.texts, items.directions
        return SceneEncoding(
            candidate_features=torch.cat([items.appeal, texts.terms], dim=1),
            profiles=directions[:0],
            history_match=directions.new_empty(0, len(directions)),
            support_kernels=support_kernels(directions[support], directions, support, texts, head["sharpness"]),
            candidate_vectors=directions,
            popularity=mixed_popularity(texts.popularity, head.get("elsewhere")),
        )


class _SupportLoss(torch.autograd.Function):
    """The loss of a support, whose gradient is `ServedTask.gradients`."""

    @staticmethod
    def forward(ctx: Any, task: ServedTask, step: int, names: tuple[str, ...], *weights: Tensor) -> Tensor:
        loss, slopes, state = task.loss_and_slopes(dict(zip(names, weights, strict=True)), step)
        ctx.task, ctx.step, ctx.names, ctx.slopes, ctx.state = task, step, names, slopes, state
        ctx.save_for_backward(*weights)
        return loss

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Any:
        weights = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        if torch.is_grad_enabled():  # a learner differentiates the gradient too
            loss = ctx.task._by_autograd.support_loss(weights, ctx.step) * outer
            found = torch.autograd.grad(loss, ctx.saved_tensors, create_graph=True, materialize_grads=True)
        else:
            found = tuple(ctx.task.gradients(weights, outer * ctx.slopes, ctx.state).values())
        return None, None, None, *found

"""The inner loop: few-shot tasks as losses of the weights that adapt, and gradient descent on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

Weights = dict[str, Tensor]


class Task(Protocol):
    """One few-shot task, or E of them side by side: all that a learner needs of a model.

    E tasks have weights with a leading axis, (E, ...), and (E,) losses; one task has the weights' own shapes and scalar
    losses. Tasks do not touch each other, so the gradient of the summed losses is each one's own. The
    recommender's tasks are `studies.learners.tasks.scene_task.SceneTask`, the classifier's
    `studies.classification.learning.classification_task.ClassificationTask`.
    """

    def start(self) -> Weights:
        """Return the weights that adapt, by name, where the inner loop starts."""

    def rates(self) -> Mapping[str, Tensor]:
        """Return multiples of `inner_lr` for weights that move at a rate of their own, by name."""

    def support_loss(self, weights: Weights, step: int) -> Tensor:
        """Return the loss of the support, or of the part of it that is an inner step's batch.

        Args:
            weights: The adapted weights; those that are left out are the model's own.
            step: Number of the inner step.
        """

    def query_loss(self, weights: Weights) -> Tensor:
        """Return the loss of the query; weights that are left out are the model's own."""

    def joint_loss(self) -> Tensor:
        """Return the loss that training on all tasks jointly descends on, in which nothing adapts."""

    def adapted(self, weights: Weights) -> Any:
        """Return what predicts under some weights; those left out are the model's own. Of one task only."""


def descend(
    loss: Callable[[Weights, int], Tensor],
    weights: Weights,
    rates: Mapping[str, Tensor | float],
    default_rate: float,
    steps: int,
    *,
    second_order: bool,
) -> Weights:
    """Descend w ← w − rate · ∇loss(w), `steps` times (MAML, Finn et al. 2017, eq. 1); return the weights reached.

    Args:
        loss: Gives the loss of a set of weights at a step: a scalar, or (E,) of weights (E, ...).
        weights: Where to start; each must require a gradient. Not changed.
        rates: Rates of single weights by name; these may themselves be trained by the outer loop.
        default_rate: Rate of all others.
        steps: Number of steps.
        second_order: Differentiate through the gradients too; otherwise they are constants (first order).
    """
    for step in range(steps):
        # A weight on which the loss does not depend yet has a gradient of zero: it stays.
        grads = torch.autograd.grad(
            loss(weights, step).sum(), list(weights.values()), create_graph=second_order, materialize_grads=True
        )
        weights = {
            name: weight - rates.get(name, default_rate) * grad
            for (name, weight), grad in zip(weights.items(), grads, strict=True)
        }
    return weights


def detached(weights: Weights) -> Weights:
    """Return the same values as leaves of a new graph."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}

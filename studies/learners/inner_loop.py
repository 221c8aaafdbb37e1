"""The inner loop: few-shot tasks as losses of the weights that adapt, and gradient descent on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

Weights = dict[str, Tensor]


class Task(Protocol):
    """One few-shot task, or E of them side by side, as a learner sees it.

    E tasks have weights with a leading axis, (E, ...), and (E,) losses; one task has the weights' own shapes and scalar
    losses. Tasks do not touch each other, so the gradient of the summed losses is each one's own. A learner needs
    nothing else of a model: the recommender's tasks are `studies.learners.tasks.scene_task.SceneTask`.
    """

    def start(self) -> Weights:
        """The weights that adapt, by name, where the inner loop starts."""

    def rates(self) -> Mapping[str, Tensor]:
        """For weights that move at another rate than the others: multiples of `inner_lr`, by name."""

    def support_loss(self, weights: Weights, step: int) -> Tensor:
        """Loss of the support, or of the part of it that is an inner step's batch.

        Args:
            weights: those that are left out stay as the model has them.
            step: number of the inner step.
        """

    def query_loss(self, weights: Weights) -> Tensor:
        """Loss of the query; weights that are left out stay as the model has them."""


def descend(
    loss: Callable[[Weights, int], Tensor],
    weights: Weights,
    rates: Mapping[str, Tensor | float],
    default_rate: float,
    steps: int,
    *,
    second_order: bool,
) -> Weights:
    """Gradient descent w ← w − rate · ∇loss(w), `steps` times (MAML, Finn et al. 2017, eq. 1).

    Args:
        loss: of a set of weights at a step: a scalar, or (E,) of weights (E, ...).
        weights: where to start; each must require a gradient. Not changed.
        rates: rate of single weights by name; these may themselves be trained by the outer loop.
        default_rate: rate of all others.
        steps: number of steps.
        second_order: differentiate through the gradients too; otherwise they are constants (first order).
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
    """The same values as leaves of a new graph."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}

"""The inner loop that gradient learners share: a few steps on the support's own ranking loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from studies.episodes import Episode
from studies.recommender import AdaptedScene

Weights = dict[str, Tensor]


def support_loss(episode: Episode, adapted: AdaptedScene) -> Tensor:
    """Cross-entropy of the support's interactions over the candidates.

    Each support user sees all interactions but their own: their own is the label, and seeing it would leave nothing
    to learn.
    """
    memory = 1 - torch.eye(len(episode.support)).to(adapted.bias)
    return functional.cross_entropy(adapted.scores(episode.support_history, memory), episode.support)


def descend(
    loss: Callable[[Weights], Tensor],
    weights: Weights,
    rates: dict[str, Tensor | float],
    default_rate: float,
    steps: int,
    *,
    second_order: bool,
) -> Weights:
    """Gradient descent w ← w − rate · ∇loss(w), `steps` times (MAML, Finn et al. 2017, eq. 1).

    Args:
        loss: scalar loss of a set of weights.
        weights: where to start; each must require a gradient. Not changed.
        rates: rate of single weights by name; these may themselves be trained by the outer loop.
        default_rate: rate of all others.
        steps: number of steps.
        second_order: differentiate through the gradients too; otherwise they are constants (first order).
    """
    for _ in range(steps):
        # A weight on which the loss does not depend yet has a gradient of zero: it stays.
        grads = torch.autograd.grad(
            loss(weights), list(weights.values()), create_graph=second_order, materialize_grads=True
        )
        weights = {
            name: weight - rates.get(name, default_rate) * grad
            for (name, weight), grad in zip(weights.items(), grads, strict=True)
        }
    return weights


def detached(weights: Weights) -> Weights:
    """The same values as leaves of a new graph."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}

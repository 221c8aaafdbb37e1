"""R2D2: ridge regression on the support's vectors, solved in closed form and differentiated through.

Source: Bertinetto et al., "Meta-learning with Differentiable Closed-form Solvers" (ICLR 2019), eq. 4 in the Woodbury
form of eq. 6: W = Zᵀ (Z Zᵀ + λI)⁻¹ Y, a system of as many equations as the support has texts, whatever the width of a
vector. Labels Y are one-hot; λ and the scale of the logits are learned by the outer loop. Deviation: their learned bias
β shifts all classes alike, which the softmax does not see. Here the learned bias is a constant feature beside each
vector, which gives every class an intercept. Where the names of the classes are read, they are weighted examples too.

For classification alone: ranked candidates are no fixed set of columns to regress on.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from studies.learners.base import Learner
from studies.learners.inner_loop import Weights
from studies.learners.registry import LEARNERS


class LabelledSupport(Protocol):
    """What the learner needs of a task: `studies.classification.learning.classification_task.ClassificationTask`."""

    def weighted_examples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (S, D) vectors of examples, their (S, N) one-hot labels and (S,) weights; or of E tasks."""


class Ridge(Learner):
    """Solves for the classes' weights and biases; no gradient step, no other weight moves."""

    entry = LEARNERS["ridge"]

    def inner_loop(self, task: Any, *, training: bool) -> Weights:
        """Return the solution for the task's support, as weights of the classes."""
        support: LabelledSupport = task
        head = self.model.head
        with torch.set_grad_enabled(training):
            vectors, targets, counts = support.weighted_examples()
            weights, bias = solve(vectors, targets, head.ridge_penalty.exp(), head.ridge_intercept, counts)
            # Products with the weights are scaled where they are taken; biases are not.
            return {"linear_weights": weights, "bias": head.log_scale.exp() * bias}


def solve(
    vectors: Tensor, targets: Tensor, penalty: Tensor, intercept: Tensor, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the (N, D) weights and (N,) biases that minimise Σ c |z W − y|² + λ|W|², each z with a constant feature.

    Args:
        vectors: (S, D), or (E, S, D) of E tasks.
        targets: (S, N), or (E, S, N).
        penalty: λ.
        intercept: The constant feature; the larger, the less an intercept is penalised.
        counts: (S,) or (E, S), how much each text counts; 1 each if left out.
    """
    roots = (torch.ones_like(targets[..., 0]) if counts is None else counts.sqrt())[..., None]
    design = roots * vectors
    gram = design @ design.mT + intercept.square() * (roots * roots.mT)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    dual = torch.linalg.solve(gram + penalty * identity, roots * targets)
    return dual.mT @ design, intercept.square() * (roots * dual).sum(-2)

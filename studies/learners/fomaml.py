"""First-order MAML: the inner loop adapts everything that trains; the outer gradient is taken at the adapted weights.

Source: Finn et al., "Model-Agnostic Meta-Learning" (ICML 2017), section 5.2; Nichol et al., "On First-Order
Meta-Learning Algorithms" (2018), eq. 8: ∂L(φ)/∂φ in place of ∂L(φ)/∂θ. Deviation: the per-candidate bias starts at
zero for each scene and moves at a learned rate, which the outer loop trains through the steps' first-order form.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call

from studies.episodes import Episode
from studies.learners.base import Learner
from studies.learners.inner_loop import Weights, descend, detached, support_loss
from studies.recommender import AdaptedScene


class FOMAML(Learner):
    """Adapts the whole head, a bias per candidate and, where the encoder trains, its top layers."""

    def adapt(self, episode: Episode, vectors: Tensor, *, training: bool = False) -> AdaptedScene:
        """`inner_steps` steps on all trainable weights."""
        head, values = self.model.head, self.hyperparameters
        assert values.inner_lr is not None
        assert values.inner_steps is not None
        bias = vectors.new_zeros(episode.candidates, requires_grad=True)
        # The bias's own rate belongs to the outer loop alone; frozen weights have nothing to adapt.
        weights: Weights = {
            name: p for name, p in self.model.named_parameters() if p.requires_grad and name != "head.bias_rate"
        }
        weights = (weights if training else detached(weights)) | {"bias": bias}
        rate = values.inner_lr * head.bias_rate.exp()
        if not training:
            vectors = vectors.detach()
        # The support's loss reads the candidates and the support users' histories, nothing of the queries.
        read = episode.support_history.any(dim=0)
        read[: episode.candidates] = True
        needed = read.nonzero().squeeze(1)
        support = replace(episode, items=episode.items[needed], support_history=episode.support_history[:, needed])
        with torch.enable_grad():
            weights = descend(
                lambda w: support_loss(support, self._scene(support, vectors[needed], w)),
                weights,
                {"bias": rate if training else rate.detach()},
                values.inner_lr,
                values.inner_steps,
                second_order=False,
            )
        if not training:
            weights = {name: weight.detach() for name, weight in weights.items()}
        with torch.set_grad_enabled(training):
            return self._scene(episode, vectors, weights)

    def _scene(self, episode: Episode, vectors: Tensor, weights: Weights) -> AdaptedScene:
        """The scene under `weights`; where the encoder adapts, its texts are read again."""
        if self.model.encoder_trains:
            vectors = functional_call(self.model.tower, _part(weights, "tower."), (episode.items,))
        head = _part(weights, "head.")
        reading = functional_call(self.model.head, head, (vectors, episode.candidates, episode.support))
        return AdaptedScene(reading, head["scene"], head["gates"], weights["bias"], head)


def _part(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}

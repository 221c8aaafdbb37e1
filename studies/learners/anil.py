"""ANIL: the inner loop adapts only the last part of the model; the outer loop trains all of it, second order.

Source: Raghu et al., "Rapid Learning or Feature Reuse?" (ICLR 2020), section 4. Deviations: the part that adapts is
the scene's direction of taste, the weights of the score's terms, and a bias per candidate that starts at zero with a
learned rate of its own (without one, a gradient-adapted head loses to popularity in the support).
"""

from __future__ import annotations

import torch
from torch import Tensor

from studies.episodes import Episode
from studies.learners.base import Learner
from studies.learners.inner_loop import Weights, descend, detached, support_loss
from studies.recommender import AdaptedScene, Reading


class ANIL(Learner):
    """Adapts scene, gates and bias; differentiates through the steps.

    The reading does not depend on what adapts, so it is made once and the inner steps cost next to nothing.
    """

    def adapt(self, episode: Episode, vectors: Tensor, *, training: bool = False) -> AdaptedScene:
        """`inner_steps` steps on scene, gates and bias."""
        head, values = self.model.head, self.hyperparameters
        assert values.inner_lr is not None
        assert values.inner_steps is not None
        with torch.set_grad_enabled(training):
            reading = head(vectors, episode.candidates, episode.support)
        bias = vectors.new_zeros(episode.candidates, requires_grad=True)
        weights: Weights = {"scene": head.scene, "gates": head.gates, "bias": bias}
        rate = values.inner_lr * head.bias_rate.exp()
        with torch.enable_grad():
            weights = descend(
                lambda w: support_loss(episode, _scene(reading, w)),
                weights if training else detached(weights),
                {"bias": rate if training else rate.detach()},
                values.inner_lr,
                values.inner_steps,
                second_order=training,
            )
        return _scene(reading, weights if training else {n: w.detach() for n, w in weights.items()})


def _scene(reading: Reading, weights: Weights) -> AdaptedScene:
    return AdaptedScene(reading, weights["scene"], weights["gates"], weights["bias"])

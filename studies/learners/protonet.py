"""Prototypes: no gradient step; the support itself, through learned similarities, says what the scene likes.

Source: Snell et al., "Prototypical Networks for Few-shot Learning" (2017), eq. 2, in the kernel form of Vinyals et
al., "Matching Networks for One Shot Learning" (2016), eq. 1: Σ_s k(candidate, s). Deviations: candidates are ranked,
not classified, so every support item is its own prototype, and the log of the kernel's sum is one term of the score
beside the support's counts, the user's history and the text's appeal (`studies/recommender.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from studies.episodes import Episode
from studies.learners.base import Learner
from studies.recommender import AdaptedScene


class ProtoNet(Learner):
    """Adapts by reading the support through the head's kernels; no weight moves."""

    def adapt(self, episode: Episode, vectors: Tensor, *, training: bool = False) -> AdaptedScene:
        """The head's reading of the support."""
        head = self.model.head
        with torch.set_grad_enabled(training):
            reading = head(vectors, episode.candidates, episode.support)
        scene, gates = (head.scene, head.gates) if training else (head.scene.detach(), head.gates.detach())
        return AdaptedScene(reading, scene, gates, vectors.new_zeros(episode.candidates))

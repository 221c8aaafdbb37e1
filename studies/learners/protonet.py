"""Prototypes: no gradient step; the support itself, through learned similarities, says what the scene likes.

Source: Snell et al., "Prototypical Networks for Few-shot Learning" (2017), eq. 2, in the kernel form of Vinyals et
al., "Matching Networks for One Shot Learning" (2016), eq. 1: Σ_s k(candidate, s). Deviations: candidates are ranked,
not classified, so every support item is its own prototype, and the log of the kernel's sum is one term of the score
beside the support's counts, the user's history and the text's appeal (`studies/model/recommender.py`).
"""

from __future__ import annotations

from studies.learners.base import Learner


class ProtoNet(Learner):
    """Adapts by reading the support through the head's kernels; no weight moves."""

    part = "nothing"

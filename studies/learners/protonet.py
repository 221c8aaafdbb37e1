"""Prototypical networks: no gradient step; candidates are scored by learned similarities to the support.

Source: Snell et al., "Prototypical Networks for Few-shot Learning" (2017), eq. 2, in the kernel form of Vinyals et
al., "Matching Networks for One Shot Learning" (2016), eq. 1: Σ_s k(candidate, s). Deviations: candidates are ranked,
not classified, so every support item is its own prototype, and the log of the kernel's sum is one feature of the score
beside the support's counts, the user's history and the text's appeal (`studies/model/recommender.py`). In
classification the prototype is the paper's, the mean of a class, compared by its cosine (`studies/classification/`).
"""

from __future__ import annotations

from studies.learners.base import Learner
from studies.learners.registry import LEARNERS


class ProtoNet(Learner):
    """Adapts by what the head makes of the support, kernels or prototypes; no weight moves."""

    entry = LEARNERS["protonet"]

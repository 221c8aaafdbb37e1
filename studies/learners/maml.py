"""MAML: the inner loop adapts everything that trains; the outer gradient runs through all of its steps.

Source: Finn et al., "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks" (ICML 2017), algorithm 2 and
eq. 1: θ ← θ − β ∇_θ Σ L(θ − α ∇L(θ)). Deviations: AdamW in the outer loop; the per-candidate bias starts at zero for
each scene and moves at a learned rate.

Memory: the graph of every inner step, its backward pass included, is held until the outer gradient is taken; the bound
is in `studies/training/memory.py`.
"""

from __future__ import annotations

from studies.learners.base import Learner
from studies.learners.registry import LEARNERS


class MAML(Learner):
    """Adapts the whole head, candidates' biases or classes' weights, and the top layers that train; second order."""

    entry = LEARNERS["maml"]

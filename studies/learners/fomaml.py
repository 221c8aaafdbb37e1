"""First-order MAML: the inner loop adapts everything that trains; the outer gradient is taken at the adapted weights.

Source: Finn et al., "Model-Agnostic Meta-Learning" (ICML 2017), section 5.2; Nichol et al., "On First-Order
Meta-Learning Algorithms" (2018), eq. 8: ∂L(φ)/∂φ in place of ∂L(φ)/∂θ. Deviation: the per-candidate bias starts at
zero for each scene and moves at a learned rate, which the outer loop trains through the steps' first-order form.
"""

from __future__ import annotations

from studies.learners.base import Learner
from studies.learners.registry import LEARNERS


class FOMAML(Learner):
    """Adapts the whole head, candidates' biases or classes' weights, and the top layers that train."""

    entry = LEARNERS["fomaml"]

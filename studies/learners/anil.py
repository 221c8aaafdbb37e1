"""ANIL: the inner loop adapts the last layer of the model alone; the outer loop trains all of it, second order.

Source: Raghu et al., "Rapid Learning or Feature Reuse?" (ICLR 2020), section 4. Deviations: what adapts is the
scene's preference, the weights of the score's features, and a bias per candidate that starts at zero with a learned
rate of its own (without one, a gradient-adapted head loses to popularity in the support).
"""

from __future__ import annotations

from studies.learners.base import Learner
from studies.learners.registry import LEARNERS


class ANIL(Learner):
    """Adapts preference, feature weights and bias; differentiates through the steps.

    The score's features do not depend on what adapts: they are computed once, and inner steps cost next to nothing.
    """

    entry = LEARNERS["anil"]

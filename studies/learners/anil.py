"""ANIL: the inner loop adapts the last layer of the model alone; the outer loop trains all of it, second order.

Source: Raghu et al., "Rapid Learning or Feature Reuse?" (ICLR 2020), section 4. Deviations: what adapts is the
scene's preference, the weights of the score's features, and a bias per candidate that starts at zero with a learned
rate of its own (without one, a gradient-adapted head loses to popularity in the support). In classification it is the
weights and biases of the classes, which start at the prototypes
(`studies/classification/learning/classification_task.py`).
"""

from __future__ import annotations

from studies.learners.base import Learner
from studies.learners.registry import LEARNERS


class ANIL(Learner):
    """Adapts the last layer; differentiates through the steps.

    What that layer reads does not depend on what adapts, so inner steps cost next to nothing.
    """

    entry = LEARNERS["anil"]

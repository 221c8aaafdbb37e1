"""ANIL: the inner loop adapts only the last part of the model; the outer loop trains all of it, second order.

Source: Raghu et al., "Rapid Learning or Feature Reuse?" (ICLR 2020), section 4. Deviations: the part that adapts is
the scene's direction of taste, the weights of the score's terms, and a bias per candidate that starts at zero with a
learned rate of its own (without one, a gradient-adapted head loses to popularity in the support).
"""

from __future__ import annotations

from studies.learners.base import Learner


class ANIL(Learner):
    """Adapts taste, gates and bias; differentiates through the steps.

    The head's reading does not depend on what adapts, so it is made once and the inner steps cost next to nothing.
    """

    part = "tail"
    second_order = True

"""Forecasts the recall at the last rung from the recall at an earlier one, by the trials that have gone on.

From each rung to the next a regression, fitted to the trials that have a recall at both: the gain is `shift` plus
`slope` times the distance from their mean, with normal noise. Each starts from a prior that weighs as much as `PRIOR`
trials: no gain, and half of the standard deviation between trials as noise. So a forecast exists before any trial has
gone on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpo.pruning.rung_history import Floats, RungHistory

PRIOR = 5.0
# Variance between trials that are all alike.
LEAST = 1e-9


@dataclass(frozen=True)
class _Gain:
    """The regression from one rung to the next; `weight` is what its slope is known by, a sum of squares."""

    centre: float
    shift: float
    slope: float
    noise: float
    weight: float


class Forecast:
    """A forecast by the results so far.

    Args:
        history: Results of the study; at the first rung there is a finite one.
    """

    def __init__(self, history: RungHistory) -> None:
        between = max(float(np.var(history.finite(0))), LEAST)
        self._gains = [_fit(*history.pairs(rung), between) for rung in range(history.rungs - 1)]

    def ends(self, recalls: Floats, rung: int) -> tuple[Floats, Floats]:
        """Return mean and standard deviation, (N,) each, of the recall at the last rung.

        Args:
            recalls: (N,) of trials at a rung.
            rung: The rung.
        """
        mean, variance = recalls, np.zeros(len(recalls))
        for gain in self._gains[rung:]:
            away = mean - gain.centre
            variance = variance * (1 + gain.slope) ** 2 + gain.noise * (1 + away**2 / gain.weight)
            mean = mean + gain.shift + gain.slope * away
        return mean, np.sqrt(variance)


def _fit(before: Floats, after: Floats, between: float) -> _Gain:
    """Fit the gain from recalls at a rung, (N,), to those at the next one; `between` is the variance between trials."""
    count = len(before)
    if not count:
        # Nobody has gone on: wherever a trial stands, it is as uncertain.
        return _Gain(0.0, 0.0, 0.0, between / 4, np.inf)
    gains, centre = after - before, float(before.mean())
    centred = before - centre
    shift = gains.sum() / (count + PRIOR)
    weight = (centred**2).sum() + between
    slope = (centred * (gains - shift)).sum() / weight
    squares = ((gains - shift - slope * centred) ** 2).sum()
    return _Gain(centre, float(shift), float(slope), float((squares + PRIOR * between / 4) / (count + PRIOR)), weight)

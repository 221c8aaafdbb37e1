"""How sure a mean over scenes is: bootstrap intervals. Loads nothing heavy, for those who only show figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over scenes with its bootstrap confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def bootstrap(values: Floats, *, confidence: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean over scenes (Efron & Tibshirani 1993, ch. 13).

    Args:
        values: (scenes,) one figure per scene; scenes where it is NaN are left out.
        confidence: coverage of the interval.
        draws: resamples of the scenes.
        seed: the same resamples for every system, so that intervals are comparable.

    Raises:
        ValueError: no scene has the figure (`interval` returns None instead).
    """
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("no scene has this figure: there is nothing to resample")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def bootstrap_ratio(numerators: Floats, denominators: Floats, *, draws: int = 10_000, seed: int = 0) -> Interval | None:
    """Percentile bootstrap (95 %) of the ratio of two means over the same scenes, resampled together.

    Args:
        numerators: (scenes,) one figure per scene.
        denominators: (scenes,) likewise.
        draws: resamples of the scenes.
        seed: see `bootstrap`.

    Returns:
        None where the mean of the denominators is not above zero in 97.5 % of the resamples: the ratio has no bounds.
    """
    chosen = np.random.default_rng(seed).integers(0, len(numerators), (draws, len(numerators)))
    above, below = numerators[chosen].mean(1), denominators[chosen].mean(1)
    if np.quantile(below, 0.025) <= 0:
        return None
    low, high = np.quantile(above / below, [0.025, 0.975])
    return Interval(float(numerators.mean() / denominators.mean()), float(low), float(high))


def interval(values: Floats) -> Interval | None:
    """`bootstrap`, or None where no scene has the figure (no user without history, say)."""
    return None if np.isnan(values).all() else bootstrap(values)

"""Bootstrap confidence intervals of means over scenes. Imports no torch, since reports use it too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over scenes with its bootstrap confidence interval [low, high]."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Return whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def bootstrap(values: Floats, *, confidence: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """Return the percentile bootstrap of the mean over scenes (Efron & Tibshirani 1993, ch. 13).

    Args:
        values: (scenes,) one value per scene; NaN values are left out.
        confidence: Coverage of the interval.
        draws: Number of resamples of the scenes.
        seed: Seed of the resamples; with the same one, intervals of several systems are comparable.

    Raises:
        ValueError: All values are NaN; `interval` returns None instead.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("no scene has this metric: there is nothing to resample")
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def bootstrap_ratio(numerators: Floats, denominators: Floats, *, draws: int = 10_000, seed: int = 0) -> Interval | None:
    """Return the percentile bootstrap (95 %) of the ratio of two means over the same scenes, resampled together.

    Args:
        numerators: (scenes,) one value per scene.
        denominators: (scenes,) one value per scene.
        draws: Number of resamples of the scenes.
        seed: Seed of the resamples.

    Returns:
        The interval, or None where the mean of the denominators is not above zero in 97.5 % of the resamples, so that
        the ratio is unbounded.
    """
    chosen = np.random.default_rng(seed).integers(0, len(numerators), (draws, len(numerators)))
    above, below = numerators[chosen].mean(1), denominators[chosen].mean(1)
    if np.quantile(below, 0.025) <= 0:
        return None
    # Up to 2.5 % of the resamples may be of scenes whose denominators are all zero: there the ratio has no bound.
    ratios = np.divide(above, below, out=np.where(above < 0, -np.inf, np.inf), where=below != 0)
    low, high = np.quantile(ratios, [0.025, 0.975])
    if not np.isfinite([low, high]).all():
        return None
    return Interval(float(numerators.mean() / denominators.mean()), float(low), float(high))


def interval(values: Floats) -> Interval | None:
    """Return `bootstrap` of the values, or None where all are NaN (such as cold-user recall without cold users)."""
    return None if np.isnan(values).all() else bootstrap(values)

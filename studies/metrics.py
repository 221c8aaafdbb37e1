"""Ranking metrics over every candidate of a scene, averaged over queries, then episodes, then scenes; intervals.

recall@K is relevant items in the top K over *all* relevant items (not hit rate); a query with more than K relevant
items cannot reach 1. Ties are broken by item id: candidates are in ascending order and the sort is stable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
METRICS = ("recall", "ndcg", "hit_rate")


def top_k(scores: Tensor, k: int) -> Tensor:
    """(Q, min(k, C)) candidates by falling score; equal scores in order of item id.

    Args:
        scores: (Q, C).
        k: length of the list shown to a user.
    """
    return torch.argsort(scores, dim=1, descending=True, stable=True)[:, :k]


def query_metrics(scores: Tensor, relevant: Tensor, k: int) -> dict[str, Tensor]:
    """(Q,) of each metric at `k`.

    Args:
        scores: (Q, C) finite scores.
        relevant: (Q, C) bool; at least one per row.
        k: cut-off.
    """
    hits = relevant.gather(1, top_k(scores, k)).double()
    total = relevant.sum(1)
    discount = 1 / torch.log2(torch.arange(hits.shape[1], device=hits.device, dtype=torch.float64) + 2)
    ideal = discount.cumsum(0)[total.clamp(max=hits.shape[1]) - 1]
    return {
        "recall": hits.sum(1) / total,
        "ndcg": (hits * discount).sum(1) / ideal,
        "hit_rate": hits.amax(1),
    }


@dataclass(frozen=True)
class SceneMetrics:
    """One system's figures on one scene, averaged over queries, then over the scene's episodes."""

    recall: float
    ndcg: float
    hit_rate: float
    coverage: float


@dataclass(frozen=True)
class Evaluation:
    """One system's figures per scene; systems evaluated on the same episodes are comparable scene by scene."""

    scenes: Mapping[str, SceneMetrics]

    def values(self, metric: str = "recall") -> Floats:
        """(scenes,) in the order of scene names."""
        return np.array([getattr(self.scenes[name], metric) for name in sorted(self.scenes)])

    def mean(self, metric: str = "recall") -> float:
        """Macro-average over scenes."""
        return float(self.values(metric).mean())


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

    For a paired comparison pass the differences scene by scene: `a.values() - b.values()`.

    Args:
        values: (scenes,) one figure per scene.
        confidence: coverage of the interval.
        draws: resamples of the scenes.
        seed: the same resamples for every system, so that intervals are comparable.
    """
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def summarise(episodes: Sequence[tuple[str, dict[str, float], set[int], int]]) -> Evaluation:
    """Averages episodes into scenes.

    Args:
        episodes: per episode: scene name, metrics averaged over queries, candidates recommended to anyone, number of
            candidates.
    """
    scenes: dict[str, SceneMetrics] = {}
    for name in sorted({episode[0] for episode in episodes}):
        mine = [episode for episode in episodes if episode[0] == name]
        means = {metric: float(np.mean([e[1][metric] for e in mine])) for metric in METRICS}
        shown = set().union(*(e[2] for e in mine))
        scenes[name] = SceneMetrics(**means, coverage=len(shown) / mine[0][3])
    return Evaluation(scenes)

"""Ranking metrics over every candidate of a scene, averaged over queries, then episodes, then scenes.

recall@K is relevant items in the top K over *all* relevant items (not hit rate); a query with more than K relevant
items cannot reach 1. Ties are broken at random (`rank`), the same in every run.

A metric without any query to average over is NaN, and averages leave NaN out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from studies.episodes.episode import Episode
from studies.evaluation.intervals import Floats, Interval, bootstrap


@dataclass(frozen=True)
class SceneMetrics:
    """The metrics of one system on one scene, averaged over queries, then over the scene's episodes.

    Attributes:
        recall: Relevant items in the top K over all relevant items.
        ndcg: Binary gains in the top K, discounted by log₂(rank + 1), over those of the ideal ranking.
        mrr: Reciprocal rank of the first relevant item in the whole ranking.
        hit_rate: Whether any item in the top K is relevant.
        precision: Relevant items in the top K over K, also where there are fewer than K candidates (trec_eval's P@K).
        accuracy: Whether the first item is relevant (accuracy@1).
        new_item_recall: Recall over the relevant items that are not in the support.
        cold_user_recall: Recall of the queries whose user has no history.
        coverage: Candidates in the top K of any query of the scene's episodes, over all candidates.
        popularity: Popularity lift of the recommended items. An item's popularity is the number of the episode's query
            users who take it; the lift is its average over all (query, position) pairs of the top K, over its average
            over all candidates. 1 is the average candidate. It uses the answers, so it describes a ranking and is not
            an objective.
    """

    recall: float
    ndcg: float = math.nan
    mrr: float = math.nan
    hit_rate: float = math.nan
    precision: float = math.nan
    accuracy: float = math.nan
    new_item_recall: float = math.nan
    cold_user_recall: float = math.nan
    coverage: float = math.nan
    popularity: float = math.nan


METRICS = tuple(field.name for field in fields(SceneMetrics))


def top_k(scores: Tensor, k: int) -> Tensor:
    """Return the (Q, min(k, C)) positions of the candidates with the highest scores; ties by position.

    Serving ranks by it, so that the same request has the same answer. Evaluation ranks by `rank`.

    Args:
        scores: (Q, C) scores.
        k: Length of a list.
    """
    return torch.argsort(scores, dim=1, descending=True, stable=True)[:, :k]


def rank(scores: Tensor, episode: Episode) -> Tensor:
    """Return the (Q, C) positions of the candidates by descending score; excluded ones are last.

    Ties are broken at random, by `random_order`. Broken by item id, which is the order of the texts, they would give
    every user the same few items and make the alphabet part of what is measured.

    Args:
        scores: (Q, C) finite scores, of which fp32 precision counts.
        episode: The episode whose candidates are scored.
    """
    bits = scores.float().masked_fill(episode.excluded, -math.inf).view(torch.int32).long()
    # As integers, the bits of fp32 numbers are in the numbers' order, the negative ones in reverse. One sort of whole
    # numbers, with the random ones in their last digits, takes no longer than a sort of the scores.
    ordinals = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    keys = (ordinals << 24) + (random_order(episode) * 2**24).long()
    return torch.argsort(keys, dim=1, descending=True, stable=True)


def random_order(episode: Episode) -> Tensor:
    """Return (Q, C) multiples of 2^-24, uniform in [0, 1), seeded by scene and opening, different for each query."""
    generator = torch.Generator().manual_seed(episode.opened * 100_003 + episode.scene)
    return torch.rand(episode.relevant.shape, generator=generator).to(episode.items.device)


def query_metrics(order: Tensor, episode: Episode, k: int) -> dict[str, Tensor]:
    """Return the (Q,) values of each metric of a query, in fp64; NaN where it is undefined for the query.

    Args:
        order: (Q, C) ranking, of `rank`.
        episode: The ranked episode; each query has a relevant candidate that is not excluded.
        k: Cut-off.
    """
    relevant, top = episode.relevant, order[:, :k]
    hits = relevant.gather(1, top).double()
    total = relevant.sum(1).double()
    discount = 1 / torch.log2(torch.arange(top.shape[1], device=top.device, dtype=torch.float64) + 2)
    ideal = discount.cumsum(0)[total.long().clamp(max=len(discount)) - 1]
    first = relevant.gather(1, order).byte().argmax(1) + 1
    known = torch.zeros_like(relevant[0]).index_fill_(0, episode.support, True)
    new = ~known
    recall = hits.sum(1) / total
    return {
        "recall": recall,
        "ndcg": (hits * discount).sum(1) / ideal,
        "mrr": 1 / first.double(),
        "hit_rate": hits.amax(1),
        "precision": hits.sum(1) / k,
        "accuracy": hits[:, 0],
        # 0 / 0 gives the NaN of a query without a new relevant item.
        "new_item_recall": (hits * new[top]).sum(1) / (relevant & new).sum(1),
        "cold_user_recall": recall.where(episode.query_history.sum(1) == 0, math.nan),
    }


@dataclass(frozen=True)
class EpisodeMetrics:
    """The metrics of one system on one episode.

    Attributes:
        means: Each metric but the coverage, averaged over the queries.
        recommended: Codes of the distinct items in any query's top K.
        candidates: (C,) codes of all candidates.
    """

    means: Mapping[str, float]
    recommended: Tensor
    candidates: Tensor


def episode_metrics(order: Tensor, episode: Episode, k: int) -> EpisodeMetrics:
    """Return the metrics of one episode.

    Args:
        order: (Q, C) ranking, of `rank`.
        episode: The ranked episode.
        k: Cut-off.
    """
    queries = query_metrics(order, episode, k)
    top = order[:, :k]
    recommended = top[~episode.excluded.gather(1, top)]
    takers = episode.relevant.sum(0).double()
    popularity = takers[recommended].mean() / takers.mean()
    # One transfer from the device for all metrics.
    means = torch.cat([torch.stack(list(queries.values())).nanmean(1), popularity[None]]).tolist()
    candidates = episode.items[: episode.candidates]
    return EpisodeMetrics(
        means=dict(zip([*queries, "popularity"], means, strict=True)),
        recommended=candidates[torch.unique(recommended)],
        candidates=candidates,
    )


class Metrics(Protocol):
    """The metrics of any task: a recall, and others that are attributes too."""

    @property
    def recall(self) -> float:
        """Return the figure that systems are compared by."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one system per scene; evaluations on the same episodes are comparable scene by scene."""

    scenes: Mapping[str, Metrics]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the names of the metrics."""
        return tuple(vars(next(iter(self.scenes.values()))))

    def values(self, metric: str = "recall") -> Floats:
        """Return the (scenes,) values of a metric in the order of scene names; NaN where it is undefined."""
        return np.array([getattr(self.scenes[name], metric) for name in sorted(self.scenes)], dtype=np.float64)

    def mean(self, metric: str = "recall") -> float:
        """Return the macro-average of a metric over the scenes where it is defined; NaN if there is none."""
        return _nanmean(self.values(metric))


def compare(a: Evaluation, b: Evaluation, metric: str = "recall") -> Interval:
    """Return the bootstrap of the differences `a` - `b`, paired scene by scene.

    Raises:
        ValueError: The two were not evaluated on the same scenes, or no scene has the metric.
    """
    if different := sorted(a.scenes.keys() ^ b.scenes.keys()):
        raise ValueError(f"evaluated on different scenes, {different[0]!r} is only in one: nothing to pair")
    return bootstrap(a.values(metric) - b.values(metric))


def summarise(episodes: Sequence[tuple[str, EpisodeMetrics]]) -> Evaluation:
    """Return the metrics per scene, averaged over its episodes.

    Args:
        episodes: Scene name and metrics of each episode.
    """
    scenes: dict[str, list[EpisodeMetrics]] = {}
    for name, metrics in episodes:
        scenes.setdefault(name, []).append(metrics)
    return Evaluation({name: _summarise_scene(scenes[name]) for name in sorted(scenes)})


def _summarise_scene(episodes: Sequence[EpisodeMetrics]) -> SceneMetrics:
    means = {metric: _nanmean(np.array([e.means[metric] for e in episodes])) for metric in episodes[0].means}
    recommended, candidates = (
        len(torch.unique(torch.cat(codes)))
        for codes in ([e.recommended for e in episodes], [e.candidates for e in episodes])
    )
    return SceneMetrics(**means, coverage=recommended / candidates)


def _nanmean(values: Floats) -> float:
    """Return the mean of the values that are not NaN; NaN, without NumPy's warning, if there is none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan

"""Ranking metrics over every candidate of a scene, averaged over queries, then episodes, then scenes.

recall@K is relevant items in the top K over *all* relevant items (not hit rate); a query with more than K relevant
items cannot reach 1. Ties are broken by item id: candidates are in ascending order and the sort is stable.

A figure that has nothing to average (no query of the kind) is NaN, and every average leaves NaN out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from studies.episodes.episode import Episode
from studies.evaluation.intervals import Floats, Interval, bootstrap


@dataclass(frozen=True)
class SceneMetrics:
    """One system's figures on one scene, averaged over queries, then over the scene's episodes.

    Attributes:
        recall: relevant items in the top K, over all relevant items.
        ndcg: binary gains in the top K, discounted by log₂(rank + 1), over those of an ideal ranking.
        mrr: reciprocal rank of the first relevant item in the whole ranking.
        hit_rate: whether any item in the top K is relevant.
        precision: relevant items in the top K over K, also where there are fewer than K candidates (trec_eval's P@K).
        accuracy: whether the first item is relevant (accuracy@1).
        new_item_recall: recall over the relevant items that are not in the support.
        cold_user_recall: recall of the queries whose user has no history at all.
        coverage: candidates in the top K of any query of any of the scene's episodes, over all candidates.
        popularity: lift of what is recommended: how many of the episode's query users take an item, averaged over all
            (query, position) pairs of the top K, over the same average over all candidates; 1 is as popular as the
            average candidate. It reads the queries' own takes: it describes a ranking and is never a goal.
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
    """(Q, min(k, C)) candidates by falling score; equal scores in order of item id.

    Args:
        scores: (Q, C).
        k: length of the list shown to a user.
    """
    return torch.argsort(scores, dim=1, descending=True, stable=True)[:, :k]


def rank(scores: Tensor, excluded: Tensor) -> Tensor:
    """(Q, C) candidates by falling score, equal scores in order of item id, the excluded ones behind all others.

    Args:
        scores: (Q, C) finite scores.
        excluded: (Q, C) bool.
    """
    return top_k(scores.masked_fill(excluded, -math.inf), scores.shape[1])


def query_metrics(order: Tensor, episode: Episode, k: int) -> dict[str, Tensor]:
    """(Q,) of each metric that a query has, in fp64; NaN where it is not defined for the query.

    Args:
        order: (Q, C) of `rank`.
        episode: what was ranked; each query has a relevant candidate, and none that is excluded.
        k: cut-off.
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
        # 0 / 0 where nothing new is relevant: NaN, as it should be.
        "new_item_recall": (hits * new[top]).sum(1) / (relevant & new).sum(1),
        "cold_user_recall": recall.where(episode.query_history.sum(1) == 0, math.nan),
    }


@dataclass(frozen=True)
class EpisodeMetrics:
    """One system's figures on one episode.

    Attributes:
        means: each metric but the coverage, averaged over the queries.
        recommended: codes of the distinct items in anyone's top K.
        candidates: (C,) codes of all candidates.
    """

    means: Mapping[str, float]
    recommended: Tensor
    candidates: Tensor


def episode_metrics(order: Tensor, episode: Episode, k: int) -> EpisodeMetrics:
    """The figures of one episode.

    Args:
        order: (Q, C) of `rank`.
        episode: what was ranked.
        k: cut-off.
    """
    queries = query_metrics(order, episode, k)
    top = order[:, :k]
    recommended = top[~episode.excluded.gather(1, top)]
    takers = episode.relevant.sum(0).double()
    popularity = takers[recommended].mean() / takers.mean()
    # One transfer from the device for all figures.
    means = torch.cat([torch.stack(list(queries.values())).nanmean(1), popularity[None]]).tolist()
    candidates = episode.items[: episode.candidates]
    return EpisodeMetrics(
        means=dict(zip([*queries, "popularity"], means, strict=True)),
        recommended=candidates[torch.unique(recommended)],
        candidates=candidates,
    )


@dataclass(frozen=True)
class Evaluation:
    """One system's figures per scene; systems evaluated on the same episodes are comparable scene by scene."""

    scenes: Mapping[str, SceneMetrics]

    def values(self, metric: str = "recall") -> Floats:
        """(scenes,) in the order of scene names; NaN for a scene that has no query of the kind."""
        return np.array([getattr(self.scenes[name], metric) for name in sorted(self.scenes)], dtype=np.float64)

    def mean(self, metric: str = "recall") -> float:
        """Macro-average over the scenes that have the figure; NaN if none has."""
        return _nanmean(self.values(metric))


def compare(a: Evaluation, b: Evaluation, metric: str = "recall") -> Interval:
    """How far `a` lies above `b`: bootstrap of the differences, paired scene by scene.

    Raises:
        ValueError: the two were not evaluated on the same scenes, or no scene has the figure.
    """
    if different := sorted(a.scenes.keys() ^ b.scenes.keys()):
        raise ValueError(f"evaluated on different scenes, {different[0]!r} is only in one: nothing to pair")
    return bootstrap(a.values(metric) - b.values(metric))


def summarise(episodes: Sequence[tuple[str, EpisodeMetrics]]) -> Evaluation:
    """Averages episodes into scenes.

    Args:
        episodes: scene name and figures of each episode.
    """
    scenes: dict[str, list[EpisodeMetrics]] = {}
    for name, figures in episodes:
        scenes.setdefault(name, []).append(figures)
    return Evaluation({name: _summarise_scene(scenes[name]) for name in sorted(scenes)})


def _summarise_scene(episodes: Sequence[EpisodeMetrics]) -> SceneMetrics:
    means = {metric: _nanmean(np.array([e.means[metric] for e in episodes])) for metric in episodes[0].means}
    recommended, candidates = (
        len(torch.unique(torch.cat(codes)))
        for codes in ([e.recommended for e in episodes], [e.candidates for e in episodes])
    )
    return SceneMetrics(**means, coverage=recommended / candidates)


def _nanmean(values: Floats) -> float:
    """The mean of what is not NaN; NaN, without NumPy's warning, if nothing is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else math.nan

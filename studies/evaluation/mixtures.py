"""Baselines that mix two: what sells elsewhere, or item-kNN, with the support's counts or a user's own past.

Both parts are scaled to a sum of one per user; the weight of the second is chosen on validation. Such a mixture is what
a shop would count without a model, where scenes share items.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from studies.episodes.episode import Episode
from studies.evaluation.evaluate import System
from studies.evaluation.metrics import EpisodeMetrics, episode_metrics, rank, summarise

# Their names, each with the name of its second part.
MIXTURES = {
    "popularity anywhere + support": "support",
    "popularity anywhere + own past": "own past",
    "item-kNN + support": "support",
}
WEIGHTS = (0.03, 0.1, 0.3, 1.0)


class Mixture:
    """The sum of a system's scores and counts.

    Args:
        name: One of `MIXTURES`.
        knn: Scores by item-kNN.
        weight: Of the second part.
    """

    def __init__(self, name: str, knn: System, weight: float = 1.0) -> None:
        self._name, self._knn, self._weight = name, knn, weight

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) scores."""
        first, second = self.parts(episode)
        return first + self._weight * second

    def parts(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Return both parts, (Q, C) each."""
        shape, elsewhere = episode.relevant.shape, episode.elsewhere[:, 0]
        first = self._knn.scores(episode) if self._name.startswith("item-kNN") else elsewhere.expand(shape)
        second = episode.query_share
        if MIXTURES[self._name] == "support":
            second = torch.bincount(episode.support, minlength=episode.candidates).float().expand(shape)
        return _scaled(first), _scaled(second)


def choose_weight(name: str, knn: System, episodes: Sequence[Episode], scene_names: Sequence[str], k: int) -> float:
    """Return the weight of a mixture that has the best recall.

    Args:
        name: One of `MIXTURES`.
        knn: Scores by item-kNN.
        episodes: Of validation scenes.
        scene_names: Name of each scene code.
        k: Cut-off of recall.
    """
    mixture = Mixture(name, knn)
    found: dict[float, list[tuple[str, EpisodeMetrics]]] = {weight: [] for weight in WEIGHTS}
    for episode in episodes:
        first, second = mixture.parts(episode)
        for weight, results in found.items():
            order = rank(first + weight * second, episode)
            results.append((scene_names[episode.scene], episode_metrics(order, episode, k)))
    return max(WEIGHTS, key=lambda weight: summarise(found[weight]).mean())


def _scaled(scores: Tensor) -> Tensor:
    return scores / scores.sum(1, keepdim=True).clamp(min=1e-9)

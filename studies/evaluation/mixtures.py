"""Baselines that mix two: what sells elsewhere, or item-kNN, with the support's counts or a user's own past.

Both parts are scaled to a sum of one per user; the weight of the second, and how fast what sells elsewhere is
forgotten, are chosen on validation. Such a mixture is what a shop would count without a model, where scenes share
items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from studies.episodes.elsewhere import HALF_LIVES
from studies.episodes.episode import Episode
from studies.evaluation.evaluate import System
from studies.evaluation.metrics import EpisodeMetrics, episode_metrics, rank, summarise

# Their names, each with the name of its second part.
MIXTURES = {
    "popularity anywhere + support": "support",
    "popularity anywhere + own past": "own past",
    "item-kNN + support": "support",
}


class Mix(NamedTuple):
    """How a mixture is mixed.

    Attributes:
        weight: Of the second part.
        half_life: Position among `HALF_LIVES` of the one that what sells elsewhere is counted with.
    """

    weight: float
    half_life: int = 0


WEIGHTS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)


class Mixture:
    """The sum of a system's scores and counts.

    Args:
        name: One of `MIXTURES`.
        knn: Scores by item-kNN.
        mix: How they are mixed.
    """

    def __init__(self, name: str, knn: System, mix: Mix) -> None:
        self._name, self._knn, self._mix = name, knn, mix

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) scores."""
        first, second = self.parts(episode)
        return first + self._mix.weight * second

    def parts(self, episode: Episode) -> tuple[Tensor, Tensor]:
        """Return both parts, (Q, C) each."""
        shape, elsewhere = episode.relevant.shape, episode.elsewhere[:, self._mix.half_life]
        first = self._knn.scores(episode) if self._name.startswith("item-kNN") else elsewhere.expand(shape)
        second = episode.query_share
        if MIXTURES[self._name] == "support":
            second = torch.bincount(episode.support, minlength=episode.candidates).float().expand(shape)
        return _scaled(first), _scaled(second)


def mixes(name: str) -> list[Mix]:
    """Return the mixes of a mixture to choose from."""
    half_lives = (0,) if name.startswith("item-kNN") else range(len(HALF_LIVES))
    return [Mix(weight, half_life) for half_life in half_lives for weight in WEIGHTS]


def choose_mix(name: str, knn: System, episodes: Sequence[Episode], scene_names: Sequence[str], k: int) -> Mix:
    """Return how a mixture has the best recall.

    Args:
        name: One of `MIXTURES`.
        knn: Scores by item-kNN.
        episodes: Of validation scenes.
        scene_names: Name of each scene code.
        k: Cut-off of recall.
    """
    tried = mixes(name)
    found: dict[Mix, list[tuple[str, EpisodeMetrics]]] = {mix: [] for mix in tried}
    for episode in episodes:
        parts = {mix.half_life: Mixture(name, knn, mix).parts(episode) for mix in tried[:: len(WEIGHTS)]}
        for mix, results in found.items():
            first, second = parts[mix.half_life]
            order = rank(first + mix.weight * second, episode)
            results.append((scene_names[episode.scene], episode_metrics(order, episode, k)))
    return max(tried, key=lambda mix: summarise(found[mix]).mean())


def _scaled(scores: Tensor) -> Tensor:
    return scores / scores.sum(1, keepdim=True).clamp(min=1e-9)

"""Rankings that learn nothing: what a recall must beat before it means anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from studies.episodes import Episode


class Random:
    """A random order, the same at every run: the floor, K over the number of candidates."""

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) uniform scores, seeded by scene and opening."""
        generator = torch.Generator().manual_seed(episode.opened * 100_003 + episode.scene)
        return torch.rand(episode.relevant.shape, generator=generator).to(episode.items.device)


class SupportPopularity:
    """How often the support took each candidate: the best baseline that reads no text."""

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) counts, the same for every user."""
        counts = torch.bincount(episode.support, minlength=episode.candidates).float()
        return counts.expand(episode.relevant.shape)


class TfidfNeighbours:
    """TF-IDF cosine between each candidate's text and the support's texts, summed.

    Args:
        texts: (items,) all item texts; term weights come from the texts alone, never from interactions.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._matrix = TfidfVectorizer(token_pattern=r"\S+").fit_transform(texts)

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C), the same for every user."""
        items = episode.items[: episode.candidates].cpu().numpy()
        candidates = self._matrix[items]
        similar = (candidates @ candidates[episode.support.cpu().numpy()].T).sum(axis=1)
        scores = torch.as_tensor(similar, dtype=torch.float32).flatten().to(episode.items.device)
        return scores.expand(episode.relevant.shape)


class ZeroShot:
    """Cosine of the untrained encoder between each candidate and the user's mean history; reads no support.

    Args:
        vectors: (items, D) frozen embeddings.
    """

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C); all zero for a user without history."""
        items = self._vectors[episode.items.to(self._vectors.device)].to(episode.items.device)
        return episode.query_history @ items @ items[: episode.candidates].T

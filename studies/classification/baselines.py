"""Baselines of classification, which a learner's recall is compared with.

Each is an `evaluate.Classifying` and reads of an episode what a learner reads: the texts, and the labels of the support.
None reads the label of a query, and none is trained on other episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional

from studies.classification.episode import LabelledEpisode
from studies.classification.evaluate import Classifying
from studies.classification.metrics import random_numbers
from studies.episodes.tfidf import Lexicon, count_words
from studies.progress import Progress

# The baseline that every system is compared with.
FROZEN_CENTROIDS = "frozen encoder centroids"
# What cosines are multiplied by to be logits; it changes probabilities, not predictions.
SCALE = 10.0


def build_baselines(
    texts: Sequence[str], vectors: Tensor, names: Tensor | None = None, progress: Progress | None = None
) -> Mapping[str, Classifying]:
    """Return all baselines, by their names in the results.

    Args:
        texts: All texts of the data; the rarity of their words needs no label.
        vectors: (items, D) embeddings of the untrained encoder.
        names: (classes, D) embeddings of the names of the classes; without them, no baseline reads names.
        progress: Called with (texts done, texts in all) while words are counted.
    """
    words = word_vectors(texts, progress)
    zero_shot = {} if names is None else {"zero-shot class names": ClassNames(vectors, names)}
    return {
        "random": Random(),
        "majority": Majority(),
        "TF-IDF centroids": WordCentroids(words),
        "TF-IDF logistic regression": LogisticRegression(words),
        FROZEN_CENTROIDS: Centroids(vectors),
        "frozen encoder logistic regression": LogisticRegression(vectors.cpu().numpy()),
        **zero_shot,
    }


def word_vectors(texts: Sequence[str], progress: Progress | None = None) -> Any:
    """Return the (items, W) TF-IDF rows of all texts: sparse, of length 1."""
    counts = count_words(texts, progress)
    return Lexicon.of(counts).weigh(counts, counted=True)


class Random:
    """Random logits, the same in every run. Its expected recall is 1 / N."""

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) uniform numbers, seeded by the episode."""
        return random_numbers(episode, (len(episode.query), episode.ways)).to(episode.items.device)


class Majority:
    """The log frequency of each class in the support; where all are equal, it guesses."""

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) logits, the same for every query."""
        counts = torch.bincount(episode.support_labels, minlength=episode.ways)
        return counts.double().log().float().expand(len(episode.query), -1)


class Centroids:
    """Cosine between a text and the mean of each class's texts in the support (Snell et al. 2017, without training).

    Args:
        vectors: (items, D) embeddings.
    """

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = functional.normalize(vectors, dim=1)

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) scaled cosines."""
        items = self._vectors[episode.items.to(self._vectors.device)].to(episode.items.device)
        members = functional.one_hot(episode.support_labels, episode.ways).to(items.dtype)
        centroids = functional.normalize(members.T @ items[episode.support], dim=1)
        return SCALE * items[episode.query] @ centroids.T


class WordCentroids:
    """The same over TF-IDF of words and pairs of words.

    Args:
        words: (items, W) sparse rows of length 1, of `word_vectors`.
    """

    def __init__(self, words: Any) -> None:
        self._words = words

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) scaled cosines."""
        support, query = _rows(self._words, episode)
        labels = episode.support_labels.cpu().numpy()
        members = sp.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))), (episode.ways, len(labels)))
        centroids = members @ support
        lengths = np.sqrt(np.asarray(centroids.multiply(centroids).sum(axis=1)).ravel())
        cosines = (query @ centroids.T).toarray() / np.maximum(lengths, 1e-12)
        return torch.as_tensor(SCALE * cosines, dtype=torch.float32).to(episode.items.device)


class LogisticRegression:
    """scikit-learn's logistic regression with its defaults, trained on the support.

    Args:
        features: (items, W) features of all texts, sparse or not.
    """

    def __init__(self, features: Any) -> None:
        self._features = features

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) log probabilities."""
        # Imported here: scikit-learn takes seconds to import, and workers do not need it.
        from sklearn.linear_model import LogisticRegression as Regression

        support, query = _rows(self._features, episode)
        model = Regression(max_iter=1000).fit(support, episode.support_labels.cpu().numpy())
        return torch.as_tensor(model.predict_log_proba(query), dtype=torch.float32).to(episode.items.device)


class ClassNames:
    """Cosine between a text and the name of each class; it reads no support.

    Args:
        vectors: (items, D) embeddings of the texts.
        names: (classes, D) embeddings of the names of all classes.
    """

    def __init__(self, vectors: Tensor, names: Tensor) -> None:
        self._vectors, self._names = functional.normalize(vectors, dim=1), functional.normalize(names, dim=1)

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) scaled cosines."""
        device = self._vectors.device
        queries = self._vectors[episode.items[episode.query].to(device)]
        return (SCALE * queries @ self._names[episode.classes.to(device)].T).to(episode.items.device)


def _rows(features: Any, episode: LabelledEpisode) -> tuple[Any, Any]:
    """Return the features of the (S,) support and of the (Q,) queries."""
    items = episode.items.cpu().numpy()
    return features[items[episode.support.cpu().numpy()]], features[items[episode.query.cpu().numpy()]]

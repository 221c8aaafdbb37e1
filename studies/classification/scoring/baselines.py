"""Baselines of classification, which a learner's recall is compared with.

Each is an `evaluate.Classifying` and reads of an episode what a learner reads: the texts, and the labels of the
support. None is trained on other episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import norm as sparse_norm
from torch import Tensor
from torch.nn import functional

from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.scoring.evaluate import Classifying
from studies.classification.scoring.metrics import random_numbers
from studies.data.dataset import Ints
from studies.evaluation.intervals import Floats

# From (n,) item codes to the (n, W) features of the texts, sparse or not.
Features = Callable[[Ints], Any]
# The baseline that every system is compared with.
FROZEN_CENTROIDS = "frozen encoder centroids"
# What cosines are multiplied by to be logits; it changes probabilities, not predictions.
SCALE = 10.0
# The probability of a class that is not in the support.
_IMPROBABLE = 1e-6
# A support of more texts has too many products of pairs to be solved by them.
MANY_ROWS = 2000


def build_baselines(data: LabelledTexts, vectors: Tensor, class_weight: str | None = None) -> Mapping[str, Classifying]:
    """Return all baselines, by their names in the results.

    Args:
        data: The texts. The rarity of their words is counted over all labelled ones, without their labels.
        vectors: (items, D) embeddings of the untrained encoder.
        class_weight: Of logistic regression, as of `LogisticRegression`.
    """
    words = Words(data)
    frozen = functional.normalize(vectors, dim=1)
    return {
        "random": Random(),
        "majority": Majority(),
        "TF-IDF centroids": Centroids(words.of),
        "TF-IDF logistic regression": LogisticRegression(words.of, class_weight),
        FROZEN_CENTROIDS: Centroids(lookup(frozen)),
        "frozen encoder logistic regression": LogisticRegression(lookup(frozen), class_weight),
        "zero-shot class names": ClassNames(frozen),
        "frozen encoder centroids + class names": NamedCentroids(frozen),
        "frozen encoder logistic regression + class names": LogisticRegression(
            lookup(frozen), class_weight, reads_names=True
        ),
    }


def lookup(vectors: Tensor) -> Features:
    """Return the function from (n,) item codes to their (n, D) rows of a table of vectors."""
    table = vectors.cpu().numpy()
    return lambda items: table[items]


class Words:
    """TF-IDF of the labelled texts over the character n-grams of their words.

    A part of a word is a term too: "chix:rotisserie" and "rotisserie chicken" have some in common, and a language that
    writes no spaces needs no other rule. On products, they classify better than words (docs/decisions.md).

    Args:
        data: The texts.
    """

    def __init__(self, data: LabelledTexts) -> None:
        # Imported here: scikit-learn takes seconds to import, and workers do not need it.
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._items = np.unique(data.text[data.label >= 0])
        terms = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), dtype=np.float32)
        self._rows = terms.fit_transform([data.texts[item] for item in self._items.tolist()]).tocsr()

    def of(self, items: Ints) -> Any:
        """Return the (n, W) rows of labelled texts: sparse, of length 1.

        Args:
            items: (n,) their codes.
        """
        return self._rows[np.searchsorted(self._items, items)]


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
        return (counts / counts.sum()).clamp(min=_IMPROBABLE).log().expand(len(episode.query), -1)


class Centroids:
    """Cosine between a text and the mean of each class's texts in the support (Snell et al. 2017, without training).

    Args:
        features: The features of texts, rows of length 1, sparse or not.
    """

    def __init__(self, features: Features) -> None:
        self._features = features

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) scaled cosines."""
        support, labels, query = episode_features(self._features, episode)
        members = sp.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))), (episode.ways, len(labels)))
        cosines = _dense(query @ _unit(members @ support).T)
        return torch.as_tensor(SCALE * cosines, dtype=torch.float32).to(episode.items.device)


class LogisticRegression:
    """scikit-learn's logistic regression with its defaults, trained on the support.

    A class without a text in the support is improbable; a single class is certain.

    Args:
        features: The features of texts, sparse or not.
        class_weight: "balanced" where all classes are to count the same, whatever their sizes.
        reads_names: Whether the name of each class is one more text of it.
    """

    def __init__(self, features: Features, class_weight: str | None = None, *, reads_names: bool = False) -> None:
        self._features, self._class_weight, self._reads_names = features, class_weight, reads_names

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) log probabilities."""
        if self._reads_names:
            episode = with_names(episode)
        present = torch.unique(episode.support_labels)
        logits = torch.full((len(episode.query), episode.ways), math.log(_IMPROBABLE), device=episode.items.device)
        found = self._fitted(episode) if len(present) > 1 else torch.zeros(len(logits), 1)
        logits[:, present] = found.to(logits.device)
        return logits

    def _fitted(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N') log probabilities of the classes that are in the support."""
        from sklearn.linear_model import LogisticRegression as Regression

        support, labels, query = episode_features(self._features, episode)
        model = Regression(max_iter=1000, class_weight=self._class_weight)
        if support.shape[0] > MANY_ROWS:
            return torch.as_tensor(model.fit(support, labels).predict_log_proba(query), dtype=torch.float32)
        products, with_query = _dense(support @ support.T), _dense(query @ support.T)
        # The weights are sums of the support's rows, so that as many directions as it has rows are enough.
        lengths, directions = np.linalg.eigh(products)
        kept = lengths > 1e-9 * lengths.max()
        basis = directions[:, kept] / np.sqrt(lengths[kept])
        found = model.fit(products @ basis, labels).predict_log_proba(with_query @ basis)
        return torch.as_tensor(found, dtype=torch.float32)


class ClassNames:
    """Cosine between a text and the name of each class; it reads no support.

    Args:
        vectors: (items, D) embeddings of the texts, of length 1.
    """

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) scaled cosines."""
        vectors = self._vectors[episode.items.to(self._vectors.device)].to(episode.items.device)
        return SCALE * vectors[episode.query] @ self._classes(vectors, episode).T

    def _classes(self, vectors: Tensor, episode: LabelledEpisode) -> Tensor:
        """Return (N, D) prototypes, of length 1, from the (M, D) vectors of an episode."""
        return vectors[episode.names]


class NamedCentroids(ClassNames):
    """Cosine between a text and the mean of each class's texts in the support and its name."""

    def _classes(self, vectors: Tensor, episode: LabelledEpisode) -> Tensor:
        sums = vectors[episode.names].index_add(0, episode.support_labels, vectors[episode.support])
        return functional.normalize(sums, dim=1)


def with_names(episode: LabelledEpisode) -> LabelledEpisode:
    """Return an episode whose support holds the name of each class as one more text of it."""
    classes = torch.arange(episode.ways, device=episode.support_labels.device)
    return replace(
        episode,
        support=torch.cat([episode.support, episode.names]),
        support_labels=torch.cat([episode.support_labels, classes]),
    )


def episode_features(features: Features, episode: LabelledEpisode) -> tuple[Any, Ints, Any]:
    """Return the features and labels of the (S,) support, and the features of the (Q,) queries."""
    items, labels = episode.items.cpu().numpy(), episode.support_labels.cpu().numpy()
    return features(items[episode.support.cpu().numpy()]), labels, features(items[episode.query.cpu().numpy()])


def _dense(matrix: Any) -> Floats:
    """Return a matrix, sparse or not, as a dense one of fp64."""
    return np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix, dtype=np.float64)


def _unit(rows: Any) -> Any:
    """Return rows, sparse or not, scaled to length 1."""
    if sp.issparse(rows):
        return sp.diags(1 / np.maximum(sparse_norm(rows, axis=1), 1e-12)) @ rows
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

"""Baselines without meta-learning, which a learner's recall is compared with.

Each is an `evaluate.System` and reads of an episode what a learner reads: candidates, support, histories. Scores tie
where a baseline knows nothing; `metrics.rank` breaks ties at random. A baseline that ranks by a user's history takes
the support's items for it where the user has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from studies.data.dataset import Dataset, Ints
from studies.episodes.catalogue_terms import TERMS
from studies.episodes.episode import Episode
from studies.episodes.words import split_words
from studies.evaluation.evaluate import System
from studies.evaluation.metrics import random_order
from studies.evaluation.mixtures import MIXTURES

# The strongest simple baseline.
POPULARITY = "support popularity"
# The baselines that read no text; a student's lift is measured over the best of them.
ANYWHERE = "popularity anywhere"
KNN = "item-kNN"
TEXT_FREE = ("random", POPULARITY, ANYWHERE, KNN, *MIXTURES, "products per item", "popularity + products")


def build_baselines(
    data: Dataset, training: Ints, until: int, vectors: Tensor, *, products: bool = True, elsewhere: bool = False
) -> Mapping[str, System]:
    """Return all baselines that the data allow, by their names in the results.

    Args:
        data: The shop.
        training: Codes of the scenes whose interactions a baseline may use as training data.
        until: End of these training data, UTC seconds.
        vectors: (items, D) embeddings of the untrained encoder.
        products: Whether systems may read the number of products that share an item's text.
        elsewhere: Whether scenes share items.
    """
    has_counts = products and bool((data.products > 1).any())
    return {
        "random": Random(),
        POPULARITY: SupportPopularity(),
        # Equal to support popularity where scenes share no items.
        **({ANYWHERE: Popularity()} if elsewhere else {}),
        **({"products per item": Products(), "popularity + products": CountsAndProducts()} if has_counts else {}),
        "TF-IDF neighbours": TfidfNeighbours(),
        "popularity + TF-IDF": CountsAndWords(),
        "BM25": BM25(data.texts),
        KNN: item_knn(data, training, until),
        "zero-shot encoder": ZeroShot(vectors),
    }


def item_knn(data: Dataset, training: Ints, until: int) -> ItemKNN:
    """Return the item-kNN of what was taken in some scenes before a time."""
    return ItemKNN(data, np.isin(data.scene, training) & (data.time < until))


class Random:
    """A random order, the same in every run. Its expected recall is K over the number of candidates."""

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) uniform scores, seeded by scene and opening."""
        return random_order(episode)


class SupportPopularity:
    """Counts of each candidate in the support; most candidates tie at zero."""

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) counts, the same for every user."""
        return _support_counts(episode).expand(episode.relevant.shape)


class Popularity:
    """Counts of each candidate in all scenes that are not held out, and in the support.

    For a new store, these are the best sellers of the other stores. Equal to `SupportPopularity` where scenes share no
    items.
    """

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) counts, the same for every user."""
        return (_support_counts(episode) + episode.elsewhere[:, 0]).expand(episode.relevant.shape)


class Products:
    """Number of the shop's products that share the candidate's text: popularity if all products sold equally."""

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) counts, the same for every user."""
        return _products(episode).expand(episode.relevant.shape)


class CountsAndProducts:
    """Support popularity plus one pseudo-count per product (a flat Dirichlet prior over products)."""

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) counts, the same for every user."""
        return (_support_counts(episode) + _products(episode)).expand(episode.relevant.shape)


class TfidfNeighbours:
    """TF-IDF cosine between each candidate and the support's items, summed over the support."""

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) scores, the same for every user."""
        return episode.overlap.sum(0).expand(episode.relevant.shape)


class CountsAndWords:
    """The sum of support popularity and TF-IDF neighbours."""

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) scores, the same for every user."""
        return (_support_counts(episode) + episode.overlap.sum(0)).expand(episode.relevant.shape)


class BM25:
    """BM25 of each candidate's text with the support's texts as the query.

    Source: Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), eq. 3.15, with
    Lucene's idf, which is always positive. Every occurrence of a term in the support counts.

    Args:
        texts: (items,) all item texts, from which idf and the mean length are computed.
        k1: Saturation of a term's frequency.
        b: Strength of the length normalisation, in [0, 1].
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        # Imported here: scikit-learn takes seconds to import, and workers do not need it.
        from sklearn.feature_extraction.text import CountVectorizer

        self._counts = CountVectorizer(tokenizer=split_words, token_pattern=None).fit_transform(texts).tocsr()
        frequency = self._counts.getnnz(axis=0)
        idf = np.log1p((len(texts) - frequency + 0.5) / (frequency + 0.5))
        length = np.asarray(self._counts.sum(axis=1)).ravel()
        saturation = k1 * (1 - b + b * length / length.mean())
        weights = self._counts.astype(np.float64).tocoo()
        weights.data = idf[weights.col] * weights.data * (k1 + 1) / (weights.data + saturation[weights.row])
        self._weights = weights.tocsr()

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) scores, the same for every user."""
        items = _candidates(episode)
        query = self._counts[items[episode.support.cpu().numpy()]].sum(axis=0)
        scores = torch.as_tensor(np.asarray(self._weights[items] @ query.T).ravel(), dtype=torch.float32)
        return scores.to(episode.items.device).expand(episode.relevant.shape)


class ItemKNN:
    """Cosine between the users of the candidate and the users of each history item, summed over the history.

    Source: Sarwar et al., "Item-based collaborative filtering recommendation algorithms" (2001), section 3.1.1, on sets
    of users. The items of a new scene have only the users of the support: each of its interactions counts as one user
    with that user's history.

    Args:
        data: The shop.
        rows: (interactions,) bool, the training data.
    """

    def __init__(self, data: Dataset, rows: npt.NDArray[np.bool_]) -> None:
        shape = (data.users, len(data.texts))
        taken = sp.csr_matrix((np.ones(int(rows.sum())), (data.user[rows], data.item[rows])), shape=shape)
        taken.data[:] = 1
        self._taken = taken.tocsc()

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) scores; a user whose history shares no user with any candidate has the support as history."""
        items, support = episode.items.cpu().numpy(), episode.support.cpu().numpy()
        known = self._taken[:, items]
        held = episode.held.cpu().numpy()
        had = np.zeros((len(support), len(items)))
        had[:, held] = episode.support_history.cpu().numpy() > 0
        had[np.arange(len(support)), support] = 1
        users = sp.vstack([known, sp.csc_matrix(had)]).tocsc()
        norms = np.sqrt(np.maximum(np.asarray(users.sum(axis=0)).ravel(), 1))
        users = users @ sp.diags(1 / norms)
        candidates = users[:, : episode.candidates]
        history = sp.csr_matrix(episode.query_history.cpu().numpy() > 0, dtype=np.float64)
        # Rows of similarities are made for items that somebody holds, not for a whole catalogue.
        scores = (history @ (users[:, held].T @ candidates)).toarray()
        scores[~scores.any(1)] = (users[:, np.unique(support)].T @ candidates).sum(0)
        return torch.as_tensor(scores, dtype=torch.float32).to(episode.items.device)


class ZeroShot:
    """Inner product of each candidate and the user's summed history under the untrained encoder.

    A user without a history has the support's items as history; for all others the support is not read.

    Args:
        vectors: (items, D) embeddings of length 1.
    """

    def __init__(self, vectors: Tensor) -> None:
        self._vectors = vectors

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) scores."""
        items = self._vectors[episode.items.to(self._vectors.device)].to(episode.items.device)
        history = episode.query_history
        profiles = history @ items[episode.held]
        support = items[episode.support].sum(0)
        return torch.where(history.any(1, keepdim=True), profiles, support) @ items[: episode.candidates].T


def _support_counts(episode: Episode) -> Tensor:
    return torch.bincount(episode.support, minlength=episode.candidates).float()


def _products(episode: Episode) -> Tensor:
    return episode.terms[:, TERMS.index("products")].exp().round()


def _candidates(episode: Episode) -> Ints:
    items: Ints = episode.items[: episode.candidates].cpu().numpy()
    return items

"""Rankings that learn nothing: what a recall must beat before it means anything.

Each is an `evaluate.System` and sees of an episode what a learner sees: candidates, support, histories.
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
from studies.evaluation.evaluate import System

# The one to beat: five purchases say much about what sells.
POPULARITY = "support popularity"
# What reads no text: a student's lift is counted over the best of these.
TEXT_FREE = ("random", POPULARITY, "popularity anywhere", "item-kNN", "products per item", "popularity + products")
_TOKEN = r"\S+"


def build_baselines(
    data: Dataset, training: Ints, until: int, vectors: Tensor, *, products: bool = True
) -> Mapping[str, System]:
    """All baselines that the data allow, by the name they have in the tables.

    Args:
        data: the shop.
        training: codes of the scenes that a baseline may know beforehand.
        until: when what it knows beforehand ends, UTC seconds.
        vectors: (items, D) embeddings of the untrained encoder.
        products: whether systems may know how many products share an item's text.
    """
    counted = products and bool((data.products > 1).any())
    return {
        "random": Random(),
        POPULARITY: SupportPopularity(),
        # Where scenes share no items, the same as the support's own.
        **({"popularity anywhere": Popularity()} if data.scenes_share_items else {}),
        **({"products per item": Products(), "popularity + products": CountsAndProducts()} if counted else {}),
        "TF-IDF neighbours": TfidfNeighbours(),
        "popularity + TF-IDF": CountsAndWords(),
        "BM25": BM25(data.texts),
        "item-kNN": ItemKNN(data, np.isin(data.scene, training) & (data.time < until)),
        "zero-shot encoder": ZeroShot(vectors),
    }


class Random:
    """A random order, the same at every run: the floor, K over the number of candidates."""

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) uniform scores, seeded by scene and opening."""
        generator = torch.Generator().manual_seed(episode.opened * 100_003 + episode.scene)
        return torch.rand(episode.relevant.shape, generator=generator).to(episode.items.device)


class SupportPopularity:
    """How often the support took each candidate: the bar that reads no text.

    Most candidates tie at zero. Ties are broken at random, differently for each user: in order of item id all users
    would be shown the same few items, which makes the baseline weaker than it is.
    """

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) counts and a random fraction."""
        return _support_counts(episode) + Random().scores(episode) / 2


class Popularity:
    """How often anyone took each candidate in any scene that is known by then, the support included.

    In a new store, what sells in the others; the same as popularity in the support where scenes share no items.
    """

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) counts; ties are broken at random."""
        return _support_counts(episode) + episode.elsewhere + Random().scores(episode) / 2


class Products:
    """How many of the shop's products share the candidate's text: what sells if every product sells alike."""

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) counts; ties are broken at random."""
        return _products(episode) + Random().scores(episode) / 2


class CountsAndProducts:
    """Support popularity with one purchase of every product imagined before (a flat Dirichlet prior over products)."""

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) counts; ties are broken at random."""
        return _support_counts(episode) + _products(episode) + Random().scores(episode) / 2


class TfidfNeighbours:
    """TF-IDF cosine between each candidate's words and those of the support's items, summed."""

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C), the same for every user."""
        return episode.overlap.sum(0).expand(episode.relevant.shape)


class CountsAndWords:
    """Support popularity and TF-IDF neighbours added up: what both miss alone, without learning anything."""

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C), the same for every user."""
        return (_support_counts(episode) + episode.overlap.sum(0)).expand(episode.relevant.shape)


class BM25:
    """BM25 of each candidate's text for the support's texts as the query.

    Source: Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), eq. 3.15, with the
    always positive idf of Lucene; every occurrence of a term in the support counts.

    Args:
        texts: (items,) all item texts; idf and the mean length come from these.
        k1: saturation of a term's frequency.
        b: how much long texts are held back.
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        # Imported here: it takes seconds, which every worker would spend for this one ranking.
        from sklearn.feature_extraction.text import CountVectorizer

        self._counts = CountVectorizer(token_pattern=_TOKEN).fit_transform(texts).tocsr()
        frequency = self._counts.getnnz(axis=0)
        idf = np.log1p((len(texts) - frequency + 0.5) / (frequency + 0.5))
        length = np.asarray(self._counts.sum(axis=1)).ravel()
        held_back = k1 * (1 - b + b * length / length.mean())
        weights = self._counts.astype(np.float64).tocoo()
        weights.data = idf[weights.col] * weights.data * (k1 + 1) / (weights.data + held_back[weights.row])
        self._weights = weights.tocsr()

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C), the same for every user."""
        items = _candidates(episode)
        query = self._counts[items[episode.support.cpu().numpy()]].sum(axis=0)
        return _for_everyone(self._weights[items] @ query.T, episode)


class ItemKNN:
    """Cosine between who took the candidate and who took the items of the user's history, summed over the history.

    Source: Sarwar et al., "Item-based collaborative filtering" (2001), section 3.1.1, on sets of users. A new scene's
    own items are known from the support alone: each of its interactions counts as one user with what they had.

    Args:
        data: the shop.
        rows: (interactions,) bool: what was known before the scene opened.
    """

    def __init__(self, data: Dataset, rows: npt.NDArray[np.bool_]) -> None:
        shape = (data.users, len(data.texts))
        taken = sp.csr_matrix((np.ones(int(rows.sum())), (data.user[rows], data.item[rows])), shape=shape)
        taken.data[:] = 1
        self._taken = taken.tocsc()

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C); all zero for a user whose history shares no user with any candidate."""
        items, support = episode.items.cpu().numpy(), episode.support.cpu().numpy()
        known = self._taken[:, items]
        had = (episode.support_history.cpu().numpy() > 0).astype(np.float64)
        had[np.arange(len(support)), support] = 1
        users = sp.vstack([known, sp.csc_matrix(had)]).tocsc()
        norms = np.sqrt(np.maximum(np.asarray(users.sum(axis=0)).ravel(), 1))
        users = users @ sp.diags(1 / norms)
        similar = users.T @ users[:, : episode.candidates]
        history = sp.csr_matrix(episode.query_history.cpu().numpy() > 0, dtype=np.float64)
        return torch.as_tensor((history @ similar).toarray(), dtype=torch.float32).to(episode.items.device)


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


def _support_counts(episode: Episode) -> Tensor:
    return torch.bincount(episode.support, minlength=episode.candidates).float()


def _products(episode: Episode) -> Tensor:
    return episode.terms[:, TERMS.index("products")].exp().round()


def _candidates(episode: Episode) -> Ints:
    items: Ints = episode.items[: episode.candidates].cpu().numpy()
    return items


def _for_everyone(scores: npt.ArrayLike, episode: Episode) -> Tensor:
    row = torch.as_tensor(np.asarray(scores).ravel(), dtype=torch.float32).to(episode.items.device)
    return row.expand(episode.relevant.shape)

"""TF-IDF of item texts: how similar two texts are by their words, which an encoder that averages tokens blurs.

Terms are words and pairs of neighbouring words, weighted by their rarity (TF-IDF; Salton & Buckley, "Term-weighting
approaches in automatic text retrieval", 1988). They are hashed to buckets, so that new words need no stored vocabulary.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import mmh3
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from studies.episodes.words import split_words
from studies.progress import Progress

BUCKETS = 2**18
_TEXTS_PER_REPORT = 10_000


class Lexicon:
    """Document frequencies: in how many texts of the training scenes each bucket's terms occur.

    Args:
        texts: Number of texts counted.
        frequency: (BUCKETS,) number of texts with a term of the bucket.
    """

    def __init__(self, texts: int, frequency: npt.NDArray[np.int64]) -> None:
        self.texts, self.frequency = texts, frequency

    @classmethod
    def of(cls, counts: Any) -> Lexicon:
        """Return the lexicon of some texts.

        Args:
            counts: (texts, BUCKETS) sparse counts, of `count_words`.
        """
        return cls(counts.shape[0], counts.getnnz(axis=0))

    def weigh(self, candidates: Any, *, counted: bool = False) -> Any:
        """Return the (C, BUCKETS) TF-IDF rows of a scene's texts: sparse, of length 1.

        The scene's own texts are added to the frequencies: a word that all of its items share does not tell them apart.

        Args:
            candidates: (C, BUCKETS) sparse counts of the scene's texts, of `count_words`.
            counted: Whether the lexicon already counts these texts.
        """
        buckets = candidates.indices
        texts, frequency = self.texts, self.frequency[buckets]
        if not counted:
            texts += candidates.shape[0]
            frequency = frequency + np.bincount(buckets, minlength=BUCKETS)[buckets]
        return normalise_rows(candidates, candidates.data * (np.log((1 + texts) / (1 + frequency)) + 1))


def normalise_rows(rows: Any, weights: npt.NDArray[np.float64]) -> Any:
    """Return sparse rows of length 1 with the pattern of `rows` and the (nonzeros,) `weights` as values."""
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    length = np.sqrt(np.bincount(row, weights * weights, minlength=rows.shape[0]))
    scaled = weights * (1 / np.maximum(length, 1e-12))[row]
    return sp.csr_matrix((scaled, rows.indices, rows.indptr), shape=rows.shape)


def overlap(weighed: Any, support: npt.NDArray[np.int64], texts_of: Any = None) -> npt.NDArray[np.float32]:
    """Return the (K, C) cosine of each support item and each candidate, in [0, 1].

    Args:
        weighed: (C, W) sparse rows of length 1, such as those of `Lexicon.weigh`.
        support: (K,) positions of the support's items among the candidates.
        texts_of: (W, C) `weighed.T.tocsr()`, worth keeping where many supports are compared: then only texts that share
            a term with the support are read.
    """
    if texts_of is not None:
        shared: npt.NDArray[np.float64] = (weighed[support] @ texts_of).toarray()
        return shared.astype(np.float32)
    cosine: npt.NDArray[np.float64] = (weighed @ weighed[support].T).toarray()
    return np.ascontiguousarray(cosine.T, dtype=np.float32)


def count_words(texts: Sequence[str], progress: Progress | None = None) -> Any:
    """Return the (n, BUCKETS) sparse counts of the words, and pairs of neighbouring words, of each text.

    The buckets of the words equal those of scikit-learn's `HashingVectorizer` (MurmurHash3), which is slower, and whose
    import alone takes longer than all other imports of a worker but torch.

    Args:
        texts: The n texts.
        progress: Called with (texts done, texts in all).
    """
    buckets, ends = array("i"), array("q", [0])
    for number, text in enumerate(texts, start=1):
        # A comma stays at its word: "tea," ends a field of the catalogue, "tea" does not.
        words = split_words(text.lower())
        terms = chain(words, map(" ".join, pairwise(words)))
        buckets.extend(abs(mmh3.hash(term)) % BUCKETS for term in terms)
        ends.append(len(buckets))
        if progress is not None and (number % _TEXTS_PER_REPORT == 0 or number == len(texts)):
            progress(number, len(texts))
    counts = sp.csr_matrix((np.ones(len(buckets)), buckets, ends), shape=(len(texts), BUCKETS))
    counts.sum_duplicates()
    return counts

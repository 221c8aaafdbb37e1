"""How alike two texts are by their words: what an encoder that averages tokens blurs, and a catalogue's texts live by.

Words and pairs of neighbouring words, weighted by how rare they are (TF-IDF, Salton & Buckley 1988), as hashed buckets:
a new scene's words need no vocabulary that someone has to keep.
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

from studies.progress import Progress

BUCKETS = 2**18
_TEXTS_PER_REPORT = 10_000


class Lexicon:
    """In how many texts of the training scenes each word occurs.

    Args:
        texts: number of texts counted.
        frequency: (BUCKETS,) texts that hold a bucket's words.
    """

    def __init__(self, texts: int, frequency: npt.NDArray[np.int64]) -> None:
        self.texts, self.frequency = texts, frequency

    @classmethod
    def of(cls, counts: Any) -> Lexicon:
        """The lexicon of some texts.

        Args:
            counts: of `count_words`.
        """
        return cls(counts.shape[0], counts.getnnz(axis=0))

    def weigh(self, candidates: Any, *, counted: bool = False) -> Any:
        """(C, BUCKETS) sparse rows of length 1: a scene's texts by their words' rarity, in this scene's terms alone.

        A scene's own texts count in the weights as well: what all of its items are called tells none of them apart.

        Args:
            candidates: (C, BUCKETS) of `count_words`.
            counted: whether the lexicon was made of these texts among others.
        """
        buckets = candidates.indices
        texts, frequency = self.texts, self.frequency[buckets]
        if not counted:
            texts += candidates.shape[0]
            frequency = frequency + np.bincount(buckets, minlength=BUCKETS)[buckets]
        return of_length_one(candidates, candidates.data * (np.log((1 + texts) / (1 + frequency)) + 1))


def of_length_one(rows: Any, weights: npt.NDArray[np.float64]) -> Any:
    """The sparse rows with other numbers in their places, each row scaled to length 1."""
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    length = np.sqrt(np.bincount(row, weights * weights, minlength=rows.shape[0]))
    scaled = weights * (1 / np.maximum(length, 1e-12))[row]
    return sp.csr_matrix((scaled, rows.indices, rows.indptr), shape=rows.shape)


def overlap(weighed: Any, support: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(K, C) cosine of the words of each support item and each candidate, in [0, 1].

    Args:
        weighed: (C, W) sparse rows: of `Lexicon.weigh`, say.
        support: (K,) positions among the candidates.
    """
    cosine: npt.NDArray[np.float64] = (weighed @ weighed[support].T).toarray()
    return np.ascontiguousarray(cosine.T, dtype=np.float32)


def count_words(texts: Sequence[str], progress: Progress | None = None) -> Any:
    """(n, BUCKETS) sparse counts of the words, and pairs of neighbouring words, of each text.

    The buckets are those of scikit-learn's `HashingVectorizer` (MurmurHash3), which takes longer, and whose import
    alone takes longer than that of all else in a worker but torch.

    Args:
        texts: n of them.
        progress: called with (texts done, texts in all).
    """
    buckets, ends = array("i"), array("q", [0])
    for number, text in enumerate(texts, start=1):
        # White space alone separates: "tea," ends a field of the catalogue, which "tea" does not.
        words = text.lower().split()
        terms = chain(words, map(" ".join, pairwise(words)))
        buckets.extend(abs(mmh3.hash(term)) % BUCKETS for term in terms)
        ends.append(len(buckets))
        if progress is not None and (number % _TEXTS_PER_REPORT == 0 or number == len(texts)):
            progress(number, len(texts))
    counts = sp.csr_matrix((np.ones(len(buckets)), buckets, ends), shape=(len(texts), BUCKETS))
    counts.sum_duplicates()
    return counts

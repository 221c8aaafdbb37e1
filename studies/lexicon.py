"""How alike two texts are by their words: what an encoder that averages tokens blurs, and a catalogue's texts live by.

Words and pairs of neighbouring words, weighted by how rare they are (TF-IDF, Salton & Buckley 1988), as hashed buckets:
a new scene's words need no vocabulary that someone has to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from sklearn.feature_extraction.text import HashingVectorizer

BUCKETS = 2**18


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
        """(C, words) sparse rows of length 1: a scene's texts by their words' rarity, in the terms of this scene alone.

        A scene's own texts count in the weights as well: what all of its items are called tells none of them apart.

        Args:
            candidates: (C, BUCKETS) of `count_words`.
            counted: whether the lexicon was made of these texts among others.
        """
        used, columns = np.unique(candidates.indices, return_inverse=True)
        words = sp.csr_matrix((candidates.data, columns, candidates.indptr), shape=(candidates.shape[0], len(used)))
        own = 0 if counted else words.getnnz(axis=0)
        texts = self.texts + (0 if counted else words.shape[0])
        rarity = np.log((1 + texts) / (1 + self.frequency[used] + own)) + 1
        weighted = words @ sp.diags(rarity)
        length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        return sp.csr_matrix(sp.diags(1 / np.maximum(length, 1e-12)) @ weighted)


def overlap(weighed: Any, support: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(K, C) cosine of the words of each support item and each candidate, in [0, 1].

    Args:
        weighed: (C, words) of `Lexicon.weigh`.
        support: (K,) positions among the candidates.
    """
    cosine: npt.NDArray[np.float32] = (weighed[support] @ weighed.T).toarray().astype(np.float32)
    return cosine


def count_words(texts: Sequence[str]) -> Any:
    """(n, BUCKETS) sparse counts of the words, and pairs of neighbouring words, of each text."""
    # White space alone separates: "tea," ends a field of the catalogue, which "tea" does not.
    vectorizer = HashingVectorizer(
        token_pattern=r"\S+", ngram_range=(1, 2), n_features=BUCKETS, alternate_sign=False, norm=None
    )
    return vectorizer.transform(texts).tocsr()

"""Features of the texts of a scene's candidates, computed once for the episodes of the scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.config.protocol_section import RankingProtocol
from studies.data.dataset import Dataset, Ints
from studies.episodes.catalogue_terms import terms, weigh_fields
from studies.episodes.split import Split
from studies.episodes.tfidf import Lexicon, count_words
from studies.progress import Progress


@dataclass(frozen=True)
class TextFeatures:
    """Features of the texts of C candidates.

    Attributes:
        words: (C, W) sparse rows of length 1, of `Lexicon.weigh`.
        fields: (C, F) sparse rows of length 1, of `studies.episodes.catalogue_terms.weigh_fields`.
        terms: (C, T) catalogue terms, of `studies.episodes.catalogue_terms.terms`.
    """

    words: Any
    fields: Any
    terms: npt.NDArray[np.float32]


class SceneTexts:
    """Computes the text features of a data set's scenes.

    Args:
        data: The shop.
        split: Split of its scenes.
        protocol: Which items are candidates.
        progress: Called with (texts done, texts in all) while words are counted.

    Attributes:
        lexicon: Word frequencies of the texts that training may read.
    """

    def __init__(
        self, data: Dataset, split: Split, protocol: RankingProtocol, progress: Progress | None = None
    ) -> None:
        self._data, self._protocol = data, protocol
        self._held_out = frozenset(int(scene) for scene in split.held_out)
        self._words = count_words(data.texts, progress)
        self.lexicon = Lexicon.of(self._words[visible_items(data, split, protocol)])
        self._last: tuple[int, TextFeatures] | None = None

    def candidates(self, scene: int) -> Ints:
        """Return the (C,) codes of the items that a recommender ranks in a scene, ascending."""
        return np.arange(len(self._data.texts)) if self._protocol.candidates == "all" else self._data.items_of(scene)

    def features(self, scene: int) -> TextFeatures:
        """Return the features of a scene's candidates; those of the last scene are cached for its other openings."""
        every = self._protocol.candidates == "all"
        key = -1 if every else scene
        if self._last is None or self._last[0] != key:
            candidates = self.candidates(scene)
            texts = [self._data.texts[item] for item in candidates]
            products = self._data.products[candidates] if self._protocol.products else None
            words = self.lexicon.weigh(self._words[candidates], counted=every or scene not in self._held_out)
            self._last = key, TextFeatures(words, weigh_fields(texts), terms(texts, products))
        return self._last[1]


def visible_items(data: Dataset, split: Split, protocol: RankingProtocol) -> Ints:
    """Return the (N,) codes of the items whose texts training may read, ascending."""
    # Where every item is a candidate everywhere, no item belongs to a held-out scene.
    return np.arange(len(data.texts)) if protocol.candidates == "all" else data.items_in(split.scenes["train"])

"""What the texts of a scene say of its candidates, for the episodes that are sampled from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.config.protocol_section import ProtocolSection
from studies.data.dataset import Dataset, Ints
from studies.episodes.catalogue_terms import terms, weigh_fields
from studies.episodes.lexicon import Lexicon, count_words
from studies.episodes.split import Split
from studies.progress import Progress


@dataclass(frozen=True)
class Said:
    """What C texts say.

    Attributes:
        words: (C, W) sparse rows of `Lexicon.weigh`.
        fields: (C, F) sparse rows of `studies.episodes.catalogue_terms.weigh_fields`.
        terms: (C, T) of `studies.episodes.catalogue_terms.terms`.
    """

    words: Any
    fields: Any
    terms: npt.NDArray[np.float32]


class SceneTexts:
    """Reads the texts of a data set's scenes.

    Args:
        data: the shop.
        split: of its scenes.
        protocol: which items are candidates.
        progress: called with (texts done, texts in all) while words are counted.

    Attributes:
        lexicon: the words of the texts that training may read.
    """

    def __init__(
        self, data: Dataset, split: Split, protocol: ProtocolSection, progress: Progress | None = None
    ) -> None:
        self._data, self._protocol = data, protocol
        self._held_out = frozenset(int(scene) for scene in split.held_out)
        self._words = count_words(data.texts, progress)
        self.lexicon = Lexicon.of(self._words[visible_items(data, split, protocol)])
        self._last: tuple[int, Said] | None = None

    def candidates(self, scene: int) -> Ints:
        """(C,) items that a recommender ranks in a scene, ascending."""
        return np.arange(len(self._data.texts)) if self._protocol.candidates == "all" else self._data.items_of(scene)

    def of(self, scene: int) -> Said:
        """What the candidates' texts say; kept until another scene is asked for: openings come one after another."""
        every = self._protocol.candidates == "all"
        key = -1 if every else scene
        if self._last is None or self._last[0] != key:
            candidates = self.candidates(scene)
            texts = [self._data.texts[item] for item in candidates]
            products = self._data.products[candidates] if self._protocol.products else None
            words = self.lexicon.weigh(self._words[candidates], counted=every or scene not in self._held_out)
            self._last = key, Said(words, weigh_fields(texts), terms(texts, products))
        return self._last[1]


def visible_items(data: Dataset, split: Split, protocol: ProtocolSection) -> Ints:
    """(N,) items whose texts training may read, ascending."""
    # Where every item is a candidate everywhere, no item belongs to a held-out scene.
    return np.arange(len(data.texts)) if protocol.candidates == "all" else data.items_in(split.scenes["train"])

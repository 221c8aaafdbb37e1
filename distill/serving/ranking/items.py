"""The items of a catalogue at one moment, with all that is computed of a text once, when it is added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distill.export.tasks.popularity import Floats, Popularity
from distill.serving.backends import Embed
from distill.serving.ranking.given import places_of
from storage.errors import InputError
from studies.episodes.catalogue_terms import CodedTexts
from studies.episodes.tfidf import Lexicon, overlap
from studies.learners.base import Learner
from studies.model.device import device
from studies.model.projected_items import ProjectedItems

Ints = npt.NDArray[np.int64]


class StudentParts(NamedTuple):
    """The parts of a student that a catalogue uses.

    Attributes:
        embed: Returns the (n, D) vectors of texts, and reports progress.
        learner: Adapts the head, which stays as it is.
        lexicon: The words of the texts that the student was trained on.
        counted: Whether the catalogue's texts are among these.
        products: Whether the student was trained with the number of products that a text stands for.
        longest_history: How many of a user's last items are encoded.
        popularity: What was taken in other scenes, as the export knows it; None where the student does not read it.
        excludes: Whether users take an item only once, so that lists leave out what they took.
    """

    embed: Embed
    learner: Learner
    lexicon: Lexicon
    counted: bool
    products: bool
    longest_history: int
    popularity: Popularity | None = None
    excludes: bool = False


class TextFeatures(NamedTuple):
    """Features of some candidates' texts, which `scene_encoding.EpisodeTexts` compares with a support.

    Attributes:
        words: (C, W) weighed words.
        fields: (C, F) weighed fields.
        terms: (C, T) the catalogue's terms.
        indexes: Of words and of fields, the texts that have each; None where they are compared only once.
    """

    words: Any
    fields: Any
    terms: Tensor
    indexes: tuple[Any, Any] = (None, None)

    def overlaps(self, support: Ints) -> tuple[Tensor, Tensor]:
        """Return the (K, C) overlaps of words and of fields with a support, given by position."""
        kinds = zip((self.words, self.fields), self.indexes, strict=True)
        words, fields = (torch.from_numpy(overlap(kind, support, index)).to(device()) for kind, index in kinds)
        return words, fields


@dataclass(frozen=True)
class Items:
    """The catalogue at one moment; adding makes another.

    Attributes:
        student: What embeds and adapts.
        place: Each text's position, in order.
        projected: The items' vectors, under the head's own weights.
        words: (N, BUCKETS) counts.
        coded: Codes of words and fields.
        products: (N,) how many products each text stands for.
        whole: Features of all items' texts.
        popularity: What was taken in other scenes; None where the student does not read it.
    """

    student: StudentParts
    place: dict[str, int]
    projected: ProjectedItems
    words: Any
    coded: CodedTexts
    products: Ints
    whole: TextFeatures
    popularity: Popularity | None

    @classmethod
    def of(
        cls,
        student: StudentParts,
        place: dict[str, int],
        projected: ProjectedItems,
        words: Any,
        coded: CodedTexts,
        products: Ints,
        popularity: Popularity | None,
    ) -> Items:
        """Return the items with everything that is computed before a scene is adapted to."""
        whole = _weighed(student, words, coded, products)
        whole = whole._replace(indexes=(whole.words.T.tocsr(), whole.fields.T.tocsr()))
        return cls(student, place, projected, words, coded, products, whole, popularity)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The items' texts, in order."""
        return tuple(self.place)

    @property
    def vectors(self) -> Tensor:
        """The (N, D) vectors of the items."""
        return self.projected.vectors

    @property
    def directions(self) -> Tensor:
        """The (N, d) directions of the items where users and items meet, before the head adapts."""
        return self.projected.directions

    def features(self, rows: Ints) -> TextFeatures:
        """Return the features of the items at (C,) positions; rarity is counted among them alone."""
        return _weighed(self.student, self.words[rows], self.coded.take(rows), self.products[rows])

    def counts(self, popularity: Popularity, rows: Ints | None) -> Floats:
        """Return how often the items at (C,) positions were taken elsewhere; of all items without positions.

        Args:
            popularity: Where the counts are; those of the catalogue's own are looked up once.
            rows: The positions.
        """
        if popularity is self.popularity:
            return self._counts if rows is None else self._counts[rows]
        return popularity.counts_of(self.texts if rows is None else [self.texts[row] for row in rows.tolist()])

    @cached_property
    def _counts(self) -> Floats:
        assert self.popularity is not None
        return self.popularity.counts_of(self.texts)

    def places(self, items: Sequence[int] | Sequence[str]) -> list[int]:
        """Return the positions of items, given by position or by text.

        Raises:
            InputError: One is not in the catalogue.
        """
        return places_of(items, self.place, self._near, "catalogue")

    def _near(self, text: str) -> str:
        cosines = self.vectors @ self.student.embed([text], None)[0]
        return self.texts[int(cosines.argmax())]

    def rows(self, candidates: Sequence[int] | Sequence[str]) -> Ints:
        """Return the (C,) positions of a scene's candidates.

        Raises:
            InputError: There are none, one is not in the catalogue, or is given twice.
        """
        if len(candidates) == 0:
            raise InputError("there are no candidates; give the positions or texts of the scene's items")
        rows = np.array(self.places(candidates), dtype=np.int64)
        codes, counts = np.unique(rows, return_counts=True)
        if len(codes) < len(rows):
            twice = self.texts[codes[counts > 1][0]]
            raise InputError(f"candidates hold {twice!r} more than once; give each item once")
        return rows


def _weighed(student: StudentParts, words: Any, coded: CodedTexts, products: Ints) -> TextFeatures:
    # A study without numbers of products has a zero in their place.
    terms = coded.terms(products if student.products else None)
    weighed = student.lexicon.weigh(words, counted=student.counted)
    return TextFeatures(weighed, coded.weigh_fields(), torch.from_numpy(terms).to(device()))

"""What a scene's catalogue alone says about which of its items sell: no interaction, no other scene.

A product line with many variants sells; so does a text that many products share. Texts are cut into fields at ", ", as
sources write them where several columns make the text; a text without any is one field.

Cutting texts takes most of the time, so that it can be done once for a catalogue (`Coder`), any part of which is then
a scene (`Coded.take`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from studies.data.dataset import Ints
from studies.episodes.lexicon import of_length_one

# The columns of `terms`.
TERMS = ("products", "rarest word", "variants of the last field", "variants of any field")
SEPARATOR = ", "

Floats = npt.NDArray[np.float32]


class Rows(NamedTuple):
    """Codes of n texts, end to end.

    Attributes:
        start: (n + 1,) where each text's codes start; no text is without any.
        codes: (total,).
    """

    start: Ints
    codes: Ints

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Rows:
        """The codes of each text."""
        start = np.fromiter(accumulate(map(len, lists), initial=0), dtype=np.int64, count=len(lists) + 1)
        return cls(start, np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=int(start[-1])))

    def take(self, rows: Ints) -> Rows:
        """The texts at (m,) places."""
        lengths = np.diff(self.start)[rows]
        start = np.concatenate([[0], lengths.cumsum()])
        return Rows(start, self.codes[np.arange(start[-1]) + np.repeat(self.start[rows] - start[:-1], lengths)])

    def then(self, more: Rows) -> Rows:
        """These texts and more behind them."""
        return Rows(
            np.concatenate([self.start, more.start[1:] + self.start[-1]]), np.concatenate([self.codes, more.codes])
        )


class Coded(NamedTuple):
    """Texts by codes of their parts, equal where the parts are.

    Attributes:
        words: the distinct words of each text.
        fields: the distinct fields, in their alphabetical order.
        rests: the text without its first field, without its second, and so on.
        distinct_rests: each of them once.
    """

    words: Rows
    fields: Rows
    rests: Rows
    distinct_rests: Rows

    def take(self, rows: Ints) -> Coded:
        """The texts at (m,) places: a scene of its own."""
        return Coded(*(part.take(rows) for part in self))

    def then(self, more: Coded) -> Coded:
        """These texts and more of the same coder behind them."""
        return Coded(*(part.then(other) for part, other in zip(self, more, strict=True)))

    def terms(self, products: Ints | None = None) -> Floats:
        """See the function `terms`."""
        texts, (words, _, rests, distinct) = len(self.words.start) - 1, self
        frequency, variants = np.bincount(words.codes), np.bincount(distinct.codes)
        columns = [
            np.zeros(texts) if products is None else np.log(products),
            np.log(np.minimum.reduceat(frequency[words.codes], words.start[:-1]) / texts),
            np.log(variants[rests.codes[rests.start[1:] - 1]]),
            np.add.reduceat(np.log(variants[rests.codes]), rests.start[:-1]),
        ]
        return np.stack(columns, axis=1).astype(np.float32)

    def weigh_fields(self) -> Any:
        """See the function `weigh_fields`."""
        texts, (start, codes) = len(self.fields.start) - 1, self.fields
        frequency = np.bincount(codes)
        held = sp.csr_matrix((np.ones(len(codes)), codes, start), shape=(texts, len(frequency)))
        return of_length_one(held, np.log((texts + 1) / frequency[codes]))


class Coder:
    """Gives parts of texts their codes; one for all texts whose codes are to be compared. Not for several threads."""

    def __init__(self) -> None:
        self._words: dict[str, int] = {}
        self._fields: dict[str, int] = {}
        self._rests: dict[tuple[str, ...], int] = {}

    def code(self, texts: Sequence[str]) -> Coded:
        """The codes of some texts."""
        fields = [text.split(SEPARATOR) for text in texts]
        rests = [_codes(self._rests, _without_one(own)) for own in fields]
        return Coded(
            words=Rows.of([_codes(self._words, set(text.split()) or {""}) for text in texts]),
            fields=Rows.of([_codes(self._fields, sorted(set(own))) for own in fields]),
            rests=Rows.of(rests),
            distinct_rests=Rows.of([list(set(own)) for own in rests]),
        )


def _codes(known: dict[Any, int], parts: Iterable[Any]) -> list[int]:
    return [known.setdefault(part, len(known)) for part in parts]


def terms(texts: Sequence[str], products: Ints | None = None) -> Floats:
    """(C, F) what speaks for each item of a scene, one column for each of `TERMS`, natural logarithms all.

    - products: how many products of the shop share the text; zero where `products` is left out.
    - rarest word: the share of the scene's texts that hold the item's least common word.
    - variants of the last field: texts that differ from it in their last field alone, itself included.
    - variants of any field: the sum of the same over all fields.

    Args:
        texts: of the scene's items, each once.
        products: (C,) number of products that each text stands for.
    """
    return Coder().code(texts).terms(products)


def weigh_fields(texts: Sequence[str]) -> Any:
    """(C, fields) sparse rows of length 1: which fields a text has, by how few of the scene's texts have them."""
    return Coder().code(texts).weigh_fields()


def _without_one(fields: Sequence[str]) -> list[tuple[str, ...]]:
    """The text without its first field, without its second, and so on."""
    return [(*fields[:place], *fields[place + 1 :]) for place in range(len(fields))]

"""Catalogue terms: features of a scene's items that need no interactions, computed from the catalogue alone.

A product line with many variants sells, and so does a text that many products share. Texts are split into fields at
", ", as sources join the columns of a text, and at the commas of Chinese and Japanese; a text without one is one field.

Splitting the texts takes most of the time. It is done once for a catalogue (`TextCoder`); a scene then takes its part
of the codes (`CodedTexts.take`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from studies.data.dataset import Ints
from studies.episodes.tfidf import normalise_rows
from studies.episodes.words import split_words

# The columns of `terms`.
TERMS = ("products", "rarest word", "variants of the last field", "variants of any field")
SEPARATOR = ", "
# With the commas of Chinese and Japanese, after which no space stands.
_SEPARATORS = re.compile(r", |[，、] ?")

Floats = npt.NDArray[np.float32]


class CodeLists(NamedTuple):
    """Lists of codes of n texts, end to end.

    Attributes:
        start: (n + 1,) where each text's codes start; each text has at least one.
        codes: (total,) codes.
    """

    start: Ints
    codes: Ints

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> CodeLists:
        """Return these lists of codes, one for each text."""
        start = np.fromiter(accumulate(map(len, lists), initial=0), dtype=np.int64, count=len(lists) + 1)
        return cls(start, np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=int(start[-1])))

    def take(self, rows: Ints) -> CodeLists:
        """Return the lists of the texts at (m,) positions."""
        lengths = np.diff(self.start)[rows]
        start = np.concatenate([[0], lengths.cumsum()])
        return CodeLists(start, self.codes[np.arange(start[-1]) + np.repeat(self.start[rows] - start[:-1], lengths)])

    def concatenate(self, more: CodeLists) -> CodeLists:
        """Return these lists followed by `more`."""
        return CodeLists(
            np.concatenate([self.start, more.start[1:] + self.start[-1]]), np.concatenate([self.codes, more.codes])
        )


class CodedTexts(NamedTuple):
    """Texts as codes of their words, fields and rests; equal parts have equal codes.

    Attributes:
        words: The distinct words of each text.
        fields: The distinct fields of each text, in alphabetical order.
        rests: Each text without its first field, without its second, and so on.
        distinct_rests: Each of a text's rests once.
    """

    words: CodeLists
    fields: CodeLists
    rests: CodeLists
    distinct_rests: CodeLists

    def take(self, rows: Ints) -> CodedTexts:
        """Return the texts at (m,) positions, as a scene of their own."""
        return CodedTexts(*(part.take(rows) for part in self))

    def concatenate(self, more: CodedTexts) -> CodedTexts:
        """Return these texts followed by `more`, which the same coder coded."""
        return CodedTexts(*(part.concatenate(other) for part, other in zip(self, more, strict=True)))

    def terms(self, products: Ints | None = None) -> Floats:
        """Return what the function `terms` returns."""
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
        """Return what the function `weigh_fields` returns."""
        texts, (start, codes) = len(self.fields.start) - 1, self.fields
        frequency = np.bincount(codes)
        held = sp.csr_matrix((np.ones(len(codes)), codes, start), shape=(texts, len(frequency)))
        return normalise_rows(held, np.log((texts + 1) / frequency[codes]))


class TextCoder:
    """Assigns codes to words, fields and rests of texts. Codes of one coder are comparable. Not thread-safe."""

    def __init__(self) -> None:
        self._words: dict[str, int] = {}
        self._fields: dict[str, int] = {}
        self._rests: dict[tuple[str, ...], int] = {}

    def code(self, texts: Sequence[str]) -> CodedTexts:
        """Return the codes of some texts."""
        fields = [split_fields(text) for text in texts]
        rests = [_codes(self._rests, _without_one(own)) for own in fields]
        return CodedTexts(
            words=CodeLists.of([_codes(self._words, set(split_words(text)) or {""}) for text in texts]),
            fields=CodeLists.of([_codes(self._fields, sorted(set(own))) for own in fields]),
            rests=CodeLists.of(rests),
            distinct_rests=CodeLists.of([list(set(own)) for own in rests]),
        )


def split_fields(text: str) -> list[str]:
    """Return the fields of a text in their order."""
    return text.split(SEPARATOR) if text.isascii() else _SEPARATORS.split(text)


def _codes(known: dict[Any, int], parts: Iterable[Any]) -> list[int]:
    return [known.setdefault(part, len(known)) for part in parts]


def terms(texts: Sequence[str], products: Ints | None = None) -> Floats:
    """Return the (C, T) catalogue terms of a scene's items, one column for each of `TERMS`, all natural logarithms.

    - products: number of products of the shop that share the text; zero where `products` is None.
    - rarest word: fraction of the scene's texts that contain the item's least common word.
    - variants of the last field: number of texts that differ from it in the last field only, itself included.
    - variants of any field: the sum of these logarithms over all fields.

    Args:
        texts: The (C,) texts of the scene's items, each once.
        products: (C,) number of products that each text stands for.
    """
    return TextCoder().code(texts).terms(products)


def weigh_fields(texts: Sequence[str]) -> Any:
    """Return (C, fields) sparse rows of length 1: each text's fields, weighted by their rarity in the scene."""
    return TextCoder().code(texts).weigh_fields()


def _without_one(fields: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the text without its first field, without its second, and so on."""
    return [(*fields[:place], *fields[place + 1 :]) for place in range(len(fields))]

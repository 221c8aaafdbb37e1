"""A catalogue that a student knows by heart: embedded once, added to while others read, adapted to in milliseconds.

All that adapting needs of texts is made when they are added: vectors, words, fields, and the codes behind the
catalogue's terms. A scene is the whole catalogue or any part of it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from distill.serving.scene import History, Scene, Vectors, shorten
from storage.errors import InputError
from studies.episodes.catalogue_terms import CodedTexts, TextCoder
from studies.episodes.episode import Episode
from studies.episodes.tfidf import Lexicon, count_words, overlap
from studies.learners.base import Learner
from studies.model.device import device
from studies.progress import Progress

Ints = npt.NDArray[np.int64]


class Known(NamedTuple):
    """What a catalogue takes of its student.

    Attributes:
        embed: gives the (n, D) vectors of texts, and reports progress.
        learner: adapts; it is copied, never changed.
        lexicon: the words of the texts that the student was trained on.
        counted: whether the catalogue's texts are among these.
        products: whether the student was trained to know how many products a text stands for.
        longest_history: how many of a user's last items are read.
    """

    embed: Callable[[Sequence[str], Progress | None], Tensor]
    learner: Learner
    lexicon: Lexicon
    counted: bool
    products: bool
    longest_history: int


class _Scenery(NamedTuple):
    """What the texts of some candidates say; `studies.model.scene_encoding.EpisodeTexts` compares it with a support."""

    words: Any
    fields: Any
    terms: Tensor


@dataclass(frozen=True)
class _Items:
    """The catalogue at one moment; adding makes another.

    Attributes:
        student: what is known of it.
        place: each text's position, in order.
        vectors: (N, D).
        words: (N, BUCKETS) counts.
        coded: codes of words and fields.
        products: (N,) how many products each text stands for.
        whole: the scenery of all items.
    """

    student: Known
    place: dict[str, int]
    vectors: Tensor
    words: Any
    coded: CodedTexts
    products: Ints
    whole: _Scenery

    @classmethod
    def of(
        cls, student: Known, place: dict[str, int], vectors: Tensor, words: Any, coded: CodedTexts, products: Ints
    ) -> _Items:
        """With all that can be made before a scene asks for it."""
        whole = _weighed(student, words, coded, products)
        return cls(student, place, vectors, words, coded, products, whole)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """In order."""
        return tuple(self.place)

    def scenery(self, rows: Ints) -> _Scenery:
        """Of the items at (C,) positions: rarity counts among them alone."""
        return _weighed(self.student, self.words[rows], self.coded.take(rows), self.products[rows])


def _weighed(student: Known, words: Any, coded: CodedTexts, products: Ints) -> _Scenery:
    # A study whose systems do not know the number of products has a zero in its place.
    terms = coded.terms(products if student.products else None)
    weighed = student.lexicon.weigh(words, counted=student.counted)
    return _Scenery(weighed, coded.weigh_fields(), torch.from_numpy(terms).to(device()))


class Catalogue:
    """A catalogue that scenes are adapted from; `StudentRecommender.catalogue` makes it.

    Several threads may adapt and rank while one adds: each sees the catalogue before or after, never between.

    Args:
        student: what embeds and adapts.
        texts: of the items, each once.
        products: how many of the shop's products each text stands for; 1 each if left out.
        progress: called with (texts embedded, texts in all).
    """

    def __init__(
        self,
        student: Known,
        texts: Sequence[str],
        products: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._student, self._coder, self._adding = student, TextCoder(), Lock()
        if len(texts) == 0:
            raise InputError("there are no candidates; give the texts of the scene's items")
        counted = _check_texts(texts, products)
        place = {text: position for position, text in enumerate(texts)}
        vectors = student.embed(list(place), progress)
        self._items = _Items.of(student, place, vectors, count_words(texts), self._coder.code(texts), counted)

    def __len__(self) -> int:
        return len(self._items.place)

    @property
    def texts(self) -> tuple[str, ...]:
        """The items' texts; their positions never change."""
        return self._items.texts

    def add(
        self, texts: Sequence[str], products: Sequence[int] | None = None, progress: Progress | None = None
    ) -> None:
        """Adds items behind the others; those that are there already stay as they are.

        Args:
            texts: of the items, each once.
            products: how many of the shop's products each text stands for; 1 each if left out.
            progress: called with (texts embedded, texts in all).

        Raises:
            InputError: a text twice or without anything in it, or products that are not one positive number per text.
        """
        counted = _check_texts(texts, products)
        with self._adding:
            old = self._items
            rows = [row for row, text in enumerate(texts) if text not in old.place]
            if not rows:
                return
            new = [texts[row] for row in rows]
            self._items = _Items.of(
                self._student,
                old.place | {text: len(old.place) + number for number, text in enumerate(new)},
                torch.cat([old.vectors, self._student.embed(new, progress)]),
                sp.vstack([old.words, count_words(new)], format="csr"),
                old.coded.concatenate(self._coder.code(new)),
                np.concatenate([old.products, counted[rows]]),
            )

    def adapt(
        self,
        support: Sequence[tuple[History, int | str]],
        candidates: Sequence[int] | Sequence[str] | None = None,
    ) -> Scene:
        """Adapts to a scene.

        Args:
            support: the scene's first interactions in order of time: the user's history before it, and the taken
                item: its position among the candidates, or its text.
            candidates: the scene's items by position in the catalogue, or by text; all if left out.

        Raises:
            InputError: no support, no or repeated candidates, a position or text that is not there, a history that is
                one text instead of a list, or a text that says nothing.
        """
        items = self._items
        if len(support) == 0:
            raise InputError("the support is empty; give at least one (history, taken candidate)")
        rows = None if candidates is None else _rows(items, candidates)
        texts = items.texts if rows is None else tuple(items.texts[row] for row in rows.tolist())
        taken = np.array([_taken(item, texts) for _, item in support])
        histories = shorten([history for history, _ in support], self._student.longest_history)
        held, counts = Vectors(histories, self._vectors).count(histories)
        scenery = items.whole if rows is None else items.scenery(rows)
        vectors = items.vectors if rows is None else items.vectors[rows]
        learner = self._student.learner
        if learner.entry.takes_gradient_steps:
            # It puts adapted weights into its own head while it runs, and threads must not meet there.
            learner = copy.deepcopy(learner)
        adapted = learner.adapt(_episode(scenery, taken, counts), torch.cat([vectors, held]))
        learner.model.head.load_state_dict(dict(adapted.head), strict=False)
        return Scene(texts, adapted, learner.model.head, self._vectors, self._student.longest_history)

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        """(n, D) vectors of any texts; those of the catalogue are at hand."""
        items = self._items
        vectors = items.vectors.new_empty(len(texts), items.vectors.shape[1])
        known = [row for row, text in enumerate(texts) if text in items.place]
        vectors[known] = items.vectors[torch.tensor([items.place[texts[row]] for row in known], dtype=torch.int64)]
        if unknown := [row for row, text in enumerate(texts) if text not in items.place]:
            if blank := [texts[row] for row in unknown if not texts[row].strip()]:
                raise InputError(f"a history holds the text {blank[0]!r}, which says nothing; leave such items out")
            vectors[unknown] = self._student.embed([texts[row] for row in unknown], None)
        return vectors


def _episode(scenery: _Scenery, taken: Ints, counts: Tensor) -> Episode:
    """The scene with its (K,) support, as learners read it; `counts` are the support users' histories."""
    here, candidates = device(), len(scenery.terms)
    nobody = torch.zeros(0, candidates, dtype=torch.bool, device=here)
    return Episode(
        scene=0,
        opened=0,
        items=torch.arange(candidates + counts.shape[1], device=here),
        candidates=candidates,
        support=torch.from_numpy(taken).to(here),
        support_history=counts,
        query_history=counts[:0],
        relevant=nobody,
        excluded=nobody,
        elsewhere=torch.zeros(candidates, device=here),
        overlap=torch.from_numpy(overlap(scenery.words, taken)).to(here),
        fields=torch.from_numpy(overlap(scenery.fields, taken)).to(here),
        terms=scenery.terms,
        users=torch.empty(0, dtype=torch.int64, device=here),
        rows=torch.empty(0, dtype=torch.int64, device=here),
    )


def _check_texts(texts: Sequence[str], products: Sequence[int] | None) -> Ints:
    """(n,) products of each text."""
    for position, text in enumerate(texts):
        if not text.strip():
            raise InputError(f"the text at position {position} is {text!r}, which says nothing; leave such items out")
    if len(set(texts)) < len(texts):
        twice = next(text for text, count in Counter(texts).items() if count > 1)
        raise InputError(
            f"candidates hold {twice!r} more than once; give each text once: texts are what tells items apart"
        )
    if products is None:
        return np.ones(len(texts), dtype=np.int64)
    if len(products) != len(texts) or min(products, default=1) < 1:
        raise InputError(
            f"products are {len(products)} numbers from {min(products, default=0)} on for {len(texts)} "
            "candidates; give one whole number of at least 1 for each"
        )
    return np.asarray(products, dtype=np.int64)


def _rows(items: _Items, candidates: Sequence[int] | Sequence[str]) -> Ints:
    """(C,) positions of a scene's candidates in the catalogue."""
    if len(candidates) == 0:
        raise InputError("there are no candidates; give the positions or texts of the scene's items")
    if missing := [text for text in candidates if isinstance(text, str) and text not in items.place]:
        raise InputError(f"the catalogue has no {missing[0]!r}; add it first, or give one of its texts")
    rows = np.array([items.place[item] if isinstance(item, str) else item for item in candidates], dtype=np.int64)
    if len(outside := rows[(rows < 0) | (rows >= len(items.place))]):
        raise InputError(f"the catalogue of {len(items.place)} items has no item {outside[0]}; positions count from 0")
    codes, counts = np.unique(rows, return_counts=True)
    if len(codes) < len(rows):
        twice = items.texts[codes[counts > 1][0]]
        raise InputError(f"candidates hold {twice!r} more than once; give each item once")
    return rows


def _taken(item: int | str, candidates: Sequence[str]) -> int:
    """The position of a support interaction's item."""
    if isinstance(item, str):
        if item not in candidates:
            raise InputError(
                f"the support takes {item!r}, which is no candidate; give the text of one, or its position"
            )
        return candidates.index(item)
    if not 0 <= item < len(candidates):
        raise InputError(
            f"the support takes candidate {item}, but the {len(candidates)} candidates are numbered from 0 to "
            f"{len(candidates) - 1}; give a position among them"
        )
    return int(item)

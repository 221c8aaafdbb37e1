"""A catalogue that is embedded once: items can be added while other threads read, and adapting takes milliseconds.

Everything that adapting needs of a text is computed when the text is added: its vector, words, fields, and the codes
behind the catalogue's terms. A scene is the whole catalogue or any part of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from distill.export.tasks.popularity import Popularity, choose, known_elsewhere
from distill.serving.given import check_texts, position_of
from distill.serving.scene import History, Scene, Vectors, shorten
from storage.errors import InputError
from studies.episodes.catalogue_terms import CodedTexts, TextCoder
from studies.episodes.episode import Episode
from studies.episodes.tfidf import Lexicon, count_words, overlap
from studies.learners.base import Learner
from studies.model.device import device
from studies.progress import Progress
from studies.text_form import normalise_text

Ints = npt.NDArray[np.int64]


class StudentParts(NamedTuple):
    """The parts of a student that a catalogue uses.

    Attributes:
        embed: Returns the (n, D) vectors of texts, and reports progress.
        learner: Adapts the head; it is copied, never changed.
        lexicon: The words of the texts that the student was trained on.
        counted: Whether the catalogue's texts are among these.
        products: Whether the student was trained with the number of products that a text stands for.
        longest_history: How many of a user's last items are encoded.
        popularity: What was taken in other scenes, as the export knows it; None where the student does not read it.
        excludes: Whether users take an item only once, so that lists leave out what they took.
    """

    embed: Callable[[Sequence[str], Progress | None], Tensor]
    learner: Learner
    lexicon: Lexicon
    counted: bool
    products: bool
    longest_history: int
    popularity: Popularity | None = None
    excludes: bool = False


class _TextFeatures(NamedTuple):
    """Features of some candidates' texts, which `scene_encoding.EpisodeTexts` compares with a support."""

    words: Any
    fields: Any
    terms: Tensor


@dataclass(frozen=True)
class _Items:
    """The catalogue at one moment; adding makes another.

    Attributes:
        student: What embeds and adapts.
        place: Each text's position, in order.
        vectors: (N, D).
        words: (N, BUCKETS) counts.
        coded: Codes of words and fields.
        products: (N,) how many products each text stands for.
        whole: Features of all items' texts.
        popularity: What was taken in other scenes; None where the student does not read it.
    """

    student: StudentParts
    place: dict[str, int]
    vectors: Tensor
    words: Any
    coded: CodedTexts
    products: Ints
    whole: _TextFeatures
    popularity: Popularity | None

    @classmethod
    def of(
        cls,
        student: StudentParts,
        place: dict[str, int],
        vectors: Tensor,
        words: Any,
        coded: CodedTexts,
        products: Ints,
        popularity: Popularity | None,
    ) -> _Items:
        """Return the items with everything that is computed before a scene is adapted to."""
        whole = _weighed(student, words, coded, products)
        return cls(student, place, vectors, words, coded, products, whole, popularity)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The items' texts, in order."""
        return tuple(self.place)

    def features(self, rows: Ints) -> _TextFeatures:
        """Return the features of the items at (C,) positions; rarity is counted among them alone."""
        return _weighed(self.student, self.words[rows], self.coded.take(rows), self.products[rows])


def _weighed(student: StudentParts, words: Any, coded: CodedTexts, products: Ints) -> _TextFeatures:
    # A study without numbers of products has a zero in their place.
    terms = coded.terms(products if student.products else None)
    weighed = student.lexicon.weigh(words, counted=student.counted)
    return _TextFeatures(weighed, coded.weigh_fields(), torch.from_numpy(terms).to(device()))


class Catalogue:
    """A catalogue that scenes are adapted from; `StudentRecommender.catalogue` makes it.

    Several threads may adapt and rank while one adds: each reads the catalogue as it was before or after.

    Args:
        student: What embeds and adapts.
        texts: Of the items, each once.
        products: How many of the shop's products each text stands for; 1 each if left out.
        progress: Called with (texts embedded, texts in all).
        popularity: What was taken in other scenes; as the export knows it if left out.
    """

    def __init__(
        self,
        student: StudentParts,
        texts: Sequence[str],
        products: Sequence[int] | None = None,
        progress: Progress | None = None,
        popularity: Popularity | None = None,
    ) -> None:
        self._student, self._coder, self._adding = student, TextCoder(), Lock()
        if len(texts) == 0:
            raise InputError("there are no candidates; give the texts of the scene's items")
        texts, counted = check_texts(texts, products)
        place = {text: position for position, text in enumerate(texts)}
        vectors = student.embed(list(place), progress)
        popularity = choose(student.popularity, popularity)
        coded = self._coder.code(texts)
        self._items = _Items.of(student, place, vectors, count_words(texts), coded, counted, popularity)

    def __len__(self) -> int:
        return len(self._items.place)

    @property
    def texts(self) -> tuple[str, ...]:
        """The items' texts in their one form (`studies/text_form.py`); their positions never change."""
        return self._items.texts

    def add(
        self, texts: Sequence[str], products: Sequence[int] | None = None, progress: Progress | None = None
    ) -> None:
        """Add items at the end; those that are there already stay as they are.

        Args:
            texts: Of the items, each once.
            products: How many of the shop's products each text stands for; 1 each if left out.
            progress: Called with (texts embedded, texts in all).

        Raises:
            InputError: A text is blank or given twice, or products are not one positive number per text.
        """
        texts, counted = check_texts(texts, products)
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
                old.popularity,
            )

    def adapt(
        self,
        support: Sequence[tuple[History, int | str]],
        candidates: Sequence[int] | Sequence[str] | None = None,
        popularity: Popularity | None = None,
    ) -> Scene:
        """Adapt to a scene.

        Args:
            support: The scene's first interactions in order of time, each with the user's history before it and the
                taken item: its position among the candidates, or its text.
            candidates: The scene's items by position in the catalogue, or by text; all if left out.
            popularity: What was taken in other scenes before it opened; the catalogue's if left out.

        Raises:
            InputError: The support is empty, candidates are missing or repeated, a position or text is not in the
                catalogue, a history is one text instead of a list, a text is blank, or the student does not read
                popularity.
        """
        items = self._items
        if len(support) == 0:
            raise InputError("the support is empty; give at least one (history, taken candidate)")
        rows = None if candidates is None else _rows(items, candidates)
        texts = items.texts if rows is None else tuple(items.texts[row] for row in rows.tolist())
        taken = np.array([position_of(item, texts) for _, item in support])
        histories = shorten([history for history, _ in support], self._student.longest_history)
        held, counts = Vectors(histories, self._vectors).count(histories)
        features = items.whole if rows is None else items.features(rows)
        vectors = items.vectors if rows is None else items.vectors[rows]
        learner = self._student.learner
        if learner.entry.takes_gradient_steps:
            # The inner loop writes adapted weights into the learner's own head: each thread needs a copy.
            learner = copy.deepcopy(learner)
        popularity, place, excludes = choose(items.popularity, popularity), None, self._student.excludes
        if popularity is not None or excludes:
            place = items.place if rows is None else {text: position for position, text in enumerate(texts)}
        episode = _episode(features, taken, counts, known_elsewhere(popularity, texts, support, place))
        adapted = learner.adapt(episode, torch.cat([vectors, held]))
        learner.model.head.load_state_dict(dict(adapted.head), strict=False)
        scene = partial(Scene, texts, adapted, learner.model.head, self._vectors, self._student.longest_history)
        return scene(place, repurchases=popularity is not None, excludes=excludes)

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        """Return the (n, D) vectors of any texts; only those outside the catalogue are embedded."""
        items = self._items
        vectors = items.vectors.new_empty(len(texts), items.vectors.shape[1])
        known = [row for row, text in enumerate(texts) if text in items.place]
        vectors[known] = items.vectors[torch.tensor([items.place[texts[row]] for row in known], dtype=torch.int64)]
        if unknown := [row for row, text in enumerate(texts) if text not in items.place]:
            if blank := [texts[row] for row in unknown if not texts[row].strip()]:
                raise InputError(f"a history holds the text {blank[0]!r}, which is blank; leave such items out")
            vectors[unknown] = self._student.embed([texts[row] for row in unknown], None)
        return vectors


def _episode(features: _TextFeatures, taken: Ints, counts: Tensor, known: tuple[Tensor, Tensor]) -> Episode:
    """Return the scene with its (K,) support as an episode.

    Args:
        features: Of the candidates' texts.
        taken: Positions of the support's items.
        counts: The support users' histories.
        known: Of `distill.export.tasks.popularity.known_elsewhere`.
    """
    here, candidates = device(), len(features.terms)
    no_queries = torch.zeros(0, candidates, dtype=torch.bool, device=here)
    return Episode(
        scene=0,
        opened=0,
        items=torch.arange(candidates + counts.shape[1], device=here),
        candidates=candidates,
        support=torch.from_numpy(taken).to(here),
        support_history=counts,
        query_history=counts[:0],
        relevant=no_queries,
        excluded=no_queries,
        elsewhere=(popularity := known[0].to(here)),
        elsewhere_total=popularity.sum(0),
        support_past=known[1].to(here),
        query_past=known[1][:0].to(here),
        support_past_total=known[1].to(here).float().sum(1),
        query_past_total=torch.empty(0, device=here),
        overlap=torch.from_numpy(overlap(features.words, taken)).to(here),
        fields=torch.from_numpy(overlap(features.fields, taken)).to(here),
        terms=features.terms,
        users=torch.empty(0, dtype=torch.int64, device=here),
        rows=torch.empty(0, dtype=torch.int64, device=here),
    )


def _rows(items: _Items, candidates: Sequence[int] | Sequence[str]) -> Ints:
    """Return the (C,) positions of a scene's candidates in the catalogue."""
    if len(candidates) == 0:
        raise InputError("there are no candidates; give the positions or texts of the scene's items")
    places = [items.place.get(normalise_text(item)) if isinstance(item, str) else item for item in candidates]
    if None in places:
        raise InputError(
            f"the catalogue has no {candidates[places.index(None)]!r}; add it first, or give one of its texts"
        )
    rows = np.array(places, dtype=np.int64)
    if len(outside := rows[(rows < 0) | (rows >= len(items.place))]):
        raise InputError(f"the catalogue of {len(items.place)} items has no item {outside[0]}; positions count from 0")
    codes, counts = np.unique(rows, return_counts=True)
    if len(codes) < len(rows):
        twice = items.texts[codes[counts > 1][0]]
        raise InputError(f"candidates hold {twice!r} more than once; give each item once")
    return rows

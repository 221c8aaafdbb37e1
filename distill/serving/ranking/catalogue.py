"""A catalogue that is embedded once: items can be added while other threads read, and adapting takes milliseconds.

Everything that adapting needs of a text is computed when the text is added: its vector, words, fields, and the codes
behind the catalogue's terms. A scene is the whole catalogue or any part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from distill.export.tasks.popularity import Popularity, choose, known_elsewhere
from distill.serving.ranking.given import check_count, check_queries, check_texts, position_of
from distill.serving.ranking.histories import History, Vectors, shorten
from distill.serving.ranking.items import Ints, Items, StudentParts, TextFeatures
from distill.serving.ranking.nearest import NearItem, Profile, nearest, profiles
from distill.serving.ranking.scene import Scene
from storage.errors import InputError
from studies.episodes.catalogue_terms import TextCoder
from studies.episodes.episode import past_share
from studies.episodes.tfidf import count_words
from studies.learners.tasks.inputs import Users
from studies.learners.tasks.served_task import ServedScene
from studies.model.device import device
from studies.model.projected_items import ProjectedItems
from studies.model.scene_encoding import EpisodeTexts
from studies.progress import Progress


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
        head = {name: weight.detach() for name, weight in student.learner.model.head.named_parameters()}
        projected = ProjectedItems.of(vectors, vectors.mean(0), head)
        popularity = choose(student.popularity, popularity)
        coded = self._coder.code(texts)
        self._items = Items.of(student, place, projected, count_words(texts), coded, counted, popularity)

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
            self._items = Items.of(
                self._student,
                old.place | {text: len(old.place) + number for number, text in enumerate(new)},
                old.projected.followed_by(self._student.embed(new, progress)),
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
        rows = None if candidates is None else items.rows(candidates)
        texts = items.texts if rows is None else tuple(items.texts[row] for row in rows.tolist())
        taken = np.array([position_of(item, texts) for _, item in support])
        histories = shorten([history for history, _ in support], self._student.longest_history)
        others, counts = Vectors(histories, self._vectors).count(histories)
        features = items.whole if rows is None else items.features(rows)
        projected = items.projected if rows is None else items.projected.take(torch.from_numpy(rows).to(device()))
        popularity = choose(items.popularity, popularity)
        place = items.place if rows is None else {text: position for position, text in enumerate(texts)}
        taken_elsewhere = None if popularity is None else items.counts(popularity, rows)
        elsewhere, past = (each.to(device()) for each in known_elsewhere(taken_elsewhere, support, place))
        held = len(texts) + torch.arange(len(others), device=others.device)
        users = Users(counts, held, others, past_share(past, past.float().sum(1)))
        learner = self._student.learner
        adapted = learner.adapt(_scene(projected, features, taken, users, elsewhere), projected.vectors)
        return Scene(
            texts,
            place,
            adapted,
            learner.model.head,
            self._vectors,
            self._student.longest_history,
            repurchases=popularity is not None,
            excludes=self._student.excludes,
        )

    def similar(self, items: Sequence[int] | Sequence[str], k: int = 10) -> list[list[NearItem]]:
        """Return the other items that are nearest to each item by the student's vectors, the nearest first.

        Args:
            items: By position, or by text.
            k: How many for each; fewer where there are fewer.

        Raises:
            InputError: `k` is below 1, `items` is one text instead of a list, or an item is not in the catalogue.
        """
        check_count(k)
        known = self._items
        own = known.places(items)
        return nearest(known.texts, known.vectors, known.vectors[own], k, own)

    def find(self, queries: Sequence[str], k: int = 10) -> list[list[NearItem]]:
        """Return the items that are nearest to each query by the student's vectors, the nearest first.

        Args:
            queries: Any texts; all that are not in the catalogue are embedded together.
            k: How many for each; fewer where there are fewer.

        Raises:
            InputError: `k` is below 1, `queries` is one text instead of a list, or one of them is blank, longer than
                65,536 characters or no text.
        """
        check_count(k)
        known, normal = self._items, check_queries(queries)
        row = {query: number for number, query in enumerate(dict.fromkeys(normal))}
        wanted = self._vectors(list(row))
        return nearest(known.texts, known.vectors, wanted[[row[query] for query in normal]], k)

    def profiles(self, histories: Sequence[History], k: int = 10) -> list[Profile]:
        """Return what the student makes of each user's history before it adapts, and the items nearest to that.

        Args:
            histories: One per user, oldest item first; empty for a user without a history.
            k: How many of the nearest items, those of the history among them.

        Raises:
            InputError: `k` is below 1, a history is one text instead of a list, or a text is blank.
        """
        check_count(k)
        known, student = self._items, self._student
        head, longest = student.learner.model.head, student.longest_history
        return profiles(head, histories, self._vectors, longest, known.texts, known.directions, k)

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        """Return the (n, D) vectors of any texts; only those outside the catalogue are embedded."""
        items = self._items
        vectors = items.vectors[torch.tensor([items.place.get(text, -1) for text in texts], dtype=torch.int64)]
        if unknown := [row for row, text in enumerate(texts) if text not in items.place]:
            if blank := [texts[row] for row in unknown if not texts[row].strip()]:
                raise InputError(f"a history holds the text {blank[0]!r}, which is blank; leave such items out")
            vectors[unknown] = self._student.embed([texts[row] for row in unknown], None)
        return vectors


def _scene(items: ProjectedItems, features: TextFeatures, taken: Ints, users: Users, elsewhere: Tensor) -> ServedScene:
    """Return the scene with its (K,) support.

    Args:
        items: The candidates.
        features: Of their texts.
        taken: Positions of the support's items.
        users: The support's.
        elsewhere: (C, B) how often each candidate was taken elsewhere.
    """
    popularity = elsewhere / elsewhere.sum(0).clamp(min=1e-9)
    texts = EpisodeTexts(*features.overlaps(taken), features.terms, popularity)
    return ServedScene.of(items, torch.from_numpy(taken).to(device()), texts, users)

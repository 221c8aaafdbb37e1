"""A scene that a student has adapted to: it ranks its candidates for any user.

Most of a score is the same for all users and is computed once; a ranking adds the part that depends on the history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distill.export.tasks.popularity import count_taken
from storage.errors import InputError
from studies.evaluation.metrics import top_k
from studies.model.explanation import HISTORY, SUPPORT, Term, explain
from studies.model.recommender import Head
from studies.model.scene_encoding import AdaptedScene
from studies.text_form import normalise_text

History = Sequence[str]


class Reason(NamedTuple):
    """A term of a score, of `studies.model.explanation`.

    Attributes:
        name: What it is.
        value: What it adds to the score.
        items: What each text of the history, or each item of the support, has of it; empty where none brought it.
    """

    name: str
    value: float
    items: tuple[tuple[str, float], ...]


# Returns the (n, D) vectors of texts.
Lookup = Callable[[Sequence[str]], Tensor]
# Most elements of a ranking's largest tensors: more users are ranked in several parts.
_MAX_ELEMENTS = 2**23


class Ranking(NamedTuple):
    """The top of each user's list.

    Attributes:
        items: (R, k) positions among the candidates, best first; equal scores in the candidates' order.
        scores: (R, k) their scores, comparable within a row; -inf of items that the user took already, which end a list
            where the study excludes them and too few others are left.
    """

    items: Tensor
    scores: Tensor


class Scene:
    """A scene that a student has adapted to; `Catalogue.adapt` and `StudentRecommender.adapt` make it.

    It is never changed: several threads may rank at once, while items are added to the catalogue.

    Args:
        candidates: The texts of its candidates.
        adapted: What ranks them.
        head: Its head, with the weights adapted to the scene.
        lookup: Gives the vectors of histories.
        longest_history: How many of a user's last items are encoded.
        place: Each candidate's position, where it matters what a user took in all of their history.
        repurchases: Whether scores depend on how often the user took an item.
        excludes: Whether a user's list has no items that they took.

    Attributes:
        candidates: The texts of its candidates; a ranking holds positions among them.
    """

    def __init__(
        self,
        candidates: Sequence[str],
        adapted: AdaptedScene,
        head: Head,
        lookup: Lookup,
        longest_history: int,
        place: Mapping[str, int] | None = None,
        *,
        repurchases: bool = False,
        excludes: bool = False,
    ) -> None:
        self.candidates, self._place = candidates, place or {}
        self._repurchases, self._excludes = repurchases, excludes
        self._adapted, self._head, self._lookup, self._longest = adapted, head, lookup, longest_history
        match = adapted.encoding.history_match
        self._shared_scores = _finite(adapted.scores(match.new_zeros(1, len(match))))

    @torch.no_grad()
    def rank(self, histories: Sequence[History], k: int = 10) -> Ranking:
        """Rank the scene's candidates for each user.

        Args:
            histories: One per user; empty for a user without a history.
            k: Length of the lists; shorter where there are fewer candidates.

        Raises:
            InputError: `k` is below 1, a history is one text instead of a list, a text is blank, or scores are not
                finite numbers.
        """
        if k < 1:
            raise InputError(f"k = {k}: a list has at least 1 item; pass k of 1 or more")
        cut = shorten(histories, self._longest)
        vectors = Vectors(cut, self._lookup)
        count = len(self.candidates)
        users = max(1, _MAX_ELEMENTS // (count * (self._longest + 6)))
        starts = range(0, len(cut), users)
        parts = [self._rank(cut[at : at + users], vectors, k, histories[at : at + users]) for at in starts]
        empty = Ranking(
            self._shared_scores.new_empty(0, min(k, count), dtype=torch.int64),
            self._shared_scores.new_empty(0, min(k, count)),
        )
        return Ranking(*(torch.cat(columns) for columns in zip(empty, *parts, strict=True)))

    @torch.no_grad()
    def explain(self, history: History, items: Sequence[int]) -> list[list[Reason]]:
        """Return why candidates have their scores for a user: terms that add up to the score, the largest first.

        Args:
            history: The user's.
            items: Positions among the candidates, such as a row of a ranking.

        Raises:
            InputError: There is no such candidate, the history is one text instead of a list, or a text is blank.
        """
        if outside := [item for item in items if not 0 <= item < len(self.candidates)]:
            raise InputError(f"the scene has {len(self.candidates)} candidates and no item {outside[0]}")
        (cut,) = shorten([history], self._longest)
        held, counts = Vectors([cut], self._lookup).count([cut])
        encoding = self._head.with_history_items(self._adapted.encoding, held)
        texts = {HISTORY: list(dict.fromkeys(cut)), SUPPORT: self._support()}
        past = self._past(history) if self._repurchases else None
        found = explain(self._adapted, encoding, counts[0], past, items)
        return [sorted((_reason(term, texts) for term in terms), key=lambda each: -abs(each.value)) for terms in found]

    def _support(self) -> list[str]:
        """Return the texts of the support's items."""
        return [self.candidates[place] for place in self._adapted.encoding.support_kernels[0].argmax(1).tolist()]

    def _past(self, history: History) -> Tensor:
        """Return (C,) each candidate's part of what a user took."""
        _, taken, times = count_taken([history], self._place).to(self._shared_scores.device)
        counts = self._shared_scores.new_zeros(len(self.candidates))
        counts[taken] = times.to(counts)
        return counts / counts.sum().clamp(min=1)

    def _rank(self, histories: Sequence[History], vectors: Vectors, k: int, whole: Sequence[History]) -> Ranking:
        held, counts = vectors.count(histories)
        encoding = self._head.with_history_items(self._adapted.encoding, held)
        scores = self._shared_scores + self._adapted.history_scores(encoding, counts)
        if self._repurchases or self._excludes:
            users, taken, times = count_taken(whole, self._place).to(scores.device)
        if self._repurchases:
            total = scores.new_zeros(len(whole)).index_add(0, users, times.to(scores))
            scores[users, taken] += self._adapted.repurchase_scores(taken, times / total[users])
        scores = _finite(scores)
        if self._excludes:
            scores[users, taken] = -math.inf
        items = best(scores, k)
        return Ranking(items, scores.gather(1, items))


def _reason(term: Term, texts: Mapping[str, Sequence[str]]) -> Reason:
    """Return a term with the texts of its parts; equal texts of a support are one."""
    parts: dict[str, float] = {}
    for text, part in zip(texts.get(term.source, ()), term.parts, strict=True):
        parts[text] = parts.get(text, 0.0) + part
    return Reason(term.name, term.value, tuple(sorted(parts.items(), key=lambda each: -abs(each[1]))))


class Vectors:
    """The vectors of all texts that some histories hold, each looked up once.

    Args:
        histories: What `shorten` returned.
        lookup: Returns the vectors.
    """

    def __init__(self, histories: Sequence[History], lookup: Lookup) -> None:
        texts = dict.fromkeys(text for history in histories for text in history)
        self._row = {text: row for row, text in enumerate(texts)}
        self._vectors = lookup(list(texts))

    def count(self, histories: Sequence[History]) -> tuple[Tensor, Tensor]:
        """Return the (H, D) vectors of the distinct texts of some histories, and the (R, H) counts of each."""
        rows = dict.fromkeys(self._row[text] for history in histories for text in history)
        place = {row: number for number, row in enumerate(rows)}
        counts = np.zeros((len(histories), len(rows)), dtype=np.float32)
        for user, history in enumerate(histories):
            for text in history:
                counts[user, place[self._row[text]]] += 1
        return self._vectors[list(rows)], torch.from_numpy(counts).to(self._vectors.device)


def shorten(histories: Sequence[History], longest: int) -> list[History]:
    """Return the last items of each history, each text in its one form.

    Raises:
        InputError: A history is one text instead of a list, or holds something else than texts.
    """
    if isinstance(lone := next((history for history in histories if isinstance(history, str)), None), str):
        raise InputError(f"a history is a list of texts, got the text {lone!r}; pass [{lone!r}]")
    cut = [history[-longest:] for history in histories]
    for item in chain.from_iterable(cut):
        if not isinstance(item, str):
            raise InputError(f"a history holds {item!r}, which is not a text; give the texts of the user's items")
    return [[normalise_text(text) for text in history] for history in cut]


def _finite(scores: Tensor) -> Tensor:
    """Return the scores; refuse them where one is NaN or infinite, which the sum of all then is as well."""
    if not bool(scores.sum().isfinite()):
        raise InputError(
            "the student's scores in this scene are not finite numbers: adapting its head diverged; export another "
            "student of the study"
        )
    return scores


def best(scores: Tensor, k: int) -> Tensor:
    """Return `metrics.top_k` of (R, C) scores, sorting only the highest where there are many candidates."""
    if k >= scores.shape[1] or len(scores) == 0:
        return top_k(scores, k)
    least = scores.topk(k, dim=1).values[:, -1:]
    # At least k of each row, in the candidates' order; more where scores are equal.
    rows = [row.nonzero()[:, 0] for row in scores >= least]
    return torch.stack([own[top_k(row[None, own], k)[0]] for own, row in zip(rows, scores, strict=True)])

"""A scene that a student has adapted to: it ranks its candidates for any user.

Most of a score is the same for all users and is computed once; a ranking adds the part that depends on the history.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distill.export.tasks.popularity import count_taken
from distill.serving.ranking.given import check_count, places_of
from distill.serving.ranking.histories import History, Lookup, Vectors, shorten
from distill.serving.ranking.nearest import NearItem, Profile, best, nearest, profiles
from storage.errors import InputError
from studies.model.explanation import HISTORY, SUPPORT, Term, explain
from studies.model.recommender import Head
from studies.model.scene_encoding import AdaptedScene


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
        place: The position of each.
        adapted: What ranks them.
        head: Its head as it was trained; weights that adapted to the scene are in `adapted`.
        lookup: Gives the vectors of any texts.
        longest_history: How many of a user's last items are encoded.
        repurchases: Whether scores depend on how often the user took an item.
        excludes: Whether a user's list has no items that they took.

    Attributes:
        candidates: The texts of its candidates; a ranking holds positions among them.
        moves_vectors: Whether adapting moved the vectors that items are compared by.
    """

    def __init__(
        self,
        candidates: Sequence[str],
        place: Mapping[str, int],
        adapted: AdaptedScene,
        head: Head,
        lookup: Lookup,
        longest_history: int,
        *,
        repurchases: bool = False,
        excludes: bool = False,
    ) -> None:
        self.candidates, self._place = candidates, place
        self._repurchases, self._excludes = repurchases, excludes
        self._adapted, self._head, self._lookup, self._longest = adapted, head, lookup, longest_history
        self.moves_vectors = "project.weight" in adapted.head
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
        check_count(k)
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
        encoding = self._head.with_history_items(self._adapted.encoding, held, self._adapted.head)
        texts = {HISTORY: list(dict.fromkeys(cut)), SUPPORT: self._support()}
        past = self._past(history) if self._repurchases else None
        found = explain(self._adapted, encoding, counts[0], past, items)
        return [sorted((_reason(term, texts) for term in terms), key=lambda each: -abs(each.value)) for terms in found]

    def similar(self, items: Sequence[int] | Sequence[str], k: int = 10) -> list[list[NearItem]]:
        """Return the other candidates that are nearest to each item, the nearest first.

        By the head's directions where adapting moved them (`moves_vectors`), else as `Catalogue.similar`.

        Args:
            items: By position among the candidates, or by text.
            k: How many for each; fewer where there are fewer.

        Raises:
            InputError: `k` is below 1, `items` is one text instead of a list, or an item is no candidate.
        """
        check_count(k)
        own = places_of(items, self._place, self._near, "scene")
        vectors = self._adapted.encoding.candidate_vectors if self.moves_vectors else self._lookup(self.candidates)
        return nearest(self.candidates, vectors, vectors[own], k, own)

    def profiles(self, histories: Sequence[History], k: int = 10) -> list[Profile]:
        """Return what the adapted student makes of each user's history, and the candidates nearest to that.

        Args:
            histories: One per user, oldest item first; empty for a user without a history.
            k: How many of the nearest candidates, those of the history among them.

        Raises:
            InputError: `k` is below 1, a history is one text instead of a list, or a text is blank.
        """
        check_count(k)
        directions = self._adapted.encoding.candidate_vectors
        head = copy.deepcopy(self._head)
        head.load_state_dict(dict(self._adapted.head), strict=False)
        return profiles(head, histories, self._lookup, self._longest, self.candidates, directions, k)

    def _near(self, text: str) -> str:
        """Return the candidate that is nearest to an unknown text."""
        return self.candidates[int((self._lookup(self.candidates) @ self._lookup([text])[0]).argmax())]

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
        encoding = self._head.with_history_items(self._adapted.encoding, held, self._adapted.head)
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


def _finite(scores: Tensor) -> Tensor:
    """Return the scores; refuse them where one is NaN or infinite, which the sum of all then is as well."""
    if not bool(scores.sum().isfinite()):
        raise InputError(
            "the student's scores in this scene are not finite numbers: adapting its head diverged; export another "
            "student of the study"
        )
    return scores

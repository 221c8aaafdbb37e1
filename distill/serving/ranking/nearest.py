"""The nearest items of other items, of queries, and of users' profiles: by the cosine of their vectors.

Vectors have length 1. Many at once are compared in few matrix products, of a bounded size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distill.serving.ranking.histories import History, Lookup, Vectors, shorten
from studies.evaluation.metrics import top_k
from studies.model.recommender import Head

# Most elements of a matrix of cosines: more rows are compared in several parts.
_MAX_ELEMENTS = 2**23
# Histories whose items are counted side by side.
_USERS = 256


class NearItem(NamedTuple):
    """An item that is near to something.

    Attributes:
        item: Its text.
        similarity: Cosine of the vectors, from -1 to 1.
    """

    item: str
    similarity: float


class Profile(NamedTuple):
    """A user as the student sees them.

    Attributes:
        vector: Their direction, of length 1; zeros without a history.
        nearest: The items that are nearest to it, the nearest first; none without a history.
    """

    vector: list[float]
    nearest: list[NearItem]


@torch.no_grad()
def nearest(
    texts: Sequence[str], vectors: Tensor, wanted: Tensor, k: int, own: Sequence[int] | None = None
) -> list[list[NearItem]]:
    """Return the items that are nearest to each vector, the nearest first; equally near ones in the items' order.

    Args:
        texts: Of the N items.
        vectors: (N, D) of them.
        wanted: (Q, D) vectors.
        k: How many items; fewer where there are fewer.
        own: Position of the item that each vector is of, which is left out.
    """
    found: list[list[NearItem]] = []
    most = min(k, len(texts) - (own is not None))
    if most == 0:
        return [[] for _ in wanted]
    size = max(1, _MAX_ELEMENTS // len(texts))
    for at in range(0, len(wanted), size):
        cosines = (wanted[at : at + size] @ vectors.T).clamp(-1, 1)
        if own is not None:
            rows = torch.tensor(own[at : at + size], device=cosines.device)
            cosines[torch.arange(len(rows), device=cosines.device), rows] = -math.inf
        items = best(cosines, most)
        pairs = zip(items.tolist(), cosines.gather(1, items).tolist(), strict=True)
        found += [[NearItem(texts[item], cosine) for item, cosine in zip(*pair, strict=True)] for pair in pairs]
    return found


@torch.no_grad()
def profiles(
    head: Head,
    histories: Sequence[History],
    lookup: Lookup,
    longest_history: int,
    texts: Sequence[str],
    directions: Tensor,
    k: int,
) -> list[Profile]:
    """Return the profile of each user.

    Args:
        head: Makes a direction of a history.
        histories: One per user.
        lookup: Gives the vectors of their texts.
        longest_history: How many of a user's last items are read.
        texts: Of the N items.
        directions: (N, d) of them, by the same head.
        k: How many of the nearest items.
    """
    cut = shorten(histories, longest_history)
    vectors = Vectors(cut, lookup)
    starts = range(0, len(cut), _USERS)
    parts = [head.profiles(*vectors.count(cut[at : at + _USERS])) for at in starts]
    users = torch.cat([directions[:0], *parts])
    near = nearest(texts, directions, users, k)
    rows = zip(users.tolist(), cut, near, strict=True)
    return [Profile(vector, found if history else []) for vector, history, found in rows]


def best(scores: Tensor, k: int) -> Tensor:
    """Return `metrics.top_k` of (R, C) scores, sorting only the highest where there are many candidates."""
    if k >= scores.shape[1] or len(scores) == 0:
        return top_k(scores, k)
    least = scores.topk(k, dim=1).values[:, -1:]
    # At least k of each row, in the candidates' order; more where scores are equal.
    rows = [row.nonzero()[:, 0] for row in scores >= least]
    return torch.stack([own[top_k(row[None, own], k)[0]] for own, row in zip(rows, scores, strict=True)])

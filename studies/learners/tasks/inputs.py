"""The tensors of an episode that a task's losses use; of several episodes side by side, padded to one shape.

Padding is inert: a padded candidate is never ranked, a padded history holds nothing, a padded query counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from studies.episodes.episode import Episode
from studies.model.scene_encoding import EpisodeTexts, episode_texts

# The users of an episode, by the field of `Inputs` that holds them.
UserRole = Literal["support_users", "query_users"]


class Users(NamedTuple):
    """Users for whom the candidates are ranked, and their histories.

    Attributes:
        history: (R, H) how often each item that a user holds is in a user's history.
        held: (H,) positions of these items among the candidates, and the others behind them.
        others: (O, D) vectors of those that are no candidates.
        past: (R, C) the candidate's part of what each user took; (R, 0) where scenes share no items.
    """

    history: Tensor
    held: Tensor
    others: Tensor
    past: Tensor


class Inputs(NamedTuple):
    """One episode, or E of them with a leading axis on everything.

    Attributes:
        present: (C,) false for padding.
        support: (K,) positions among the candidates.
        texts: Features of the candidates' texts.
        support_users: The K users of the support, without items that only the queries' users had.
        query_users: The Q users of the queries.
        relevant: (Q, C) whether the user takes the candidate.
        excluded: (Q, C) whether the candidate is not ranked for the user.
        query_mask: (Q,) 1 for a query, 0 for padding.
    """

    present: Tensor
    support: Tensor
    texts: EpisodeTexts
    support_users: Users
    query_users: Users
    relevant: Tensor
    excluded: Tensor
    query_mask: Tensor

    def users(self, role: UserRole) -> Users:
        """Return the users of one role."""
        return self.support_users if role == "support_users" else self.query_users


def gather(episodes: Sequence[Episode], vectors: Callable[[int, Tensor], Tensor]) -> Inputs:
    """Return the inputs of E episodes with as many shots; of a single one without the leading axis.

    Args:
        episodes: The episodes.
        vectors: Gives the (n, D) vectors of the items at (n,) positions, none of them a candidate's, of the episode of
            that number.
    """
    candidates = max(episode.candidates for episode in episodes)
    queries = max(len(episode.users) for episode in episodes)
    shape, shots = (queries, candidates), len(episodes[0].support)
    texts = [episode_texts(episode) for episode in episodes]
    gathered = Inputs(
        present=_padded([torch.ones_like(e.items[: e.candidates], dtype=torch.bool) for e in episodes], (candidates,)),
        support=torch.stack([e.support for e in episodes]),
        texts=EpisodeTexts(
            overlap=_padded([each.overlap for each in texts], (shots, candidates)),
            fields=_padded([each.fields for each in texts], (shots, candidates)),
            terms=_padded([each.terms for each in texts], (candidates, texts[0].terms.shape[1])),
            popularity=_padded([each.popularity for each in texts], (candidates, texts[0].popularity.shape[1])),
        ),
        support_users=_users(
            [(e.support_history, e.support_columns, e.support_share) for e in episodes], episodes, candidates, vectors
        ),
        query_users=_users(
            [(e.query_history, torch.arange(len(e.held), device=e.held.device), e.query_share) for e in episodes],
            episodes,
            candidates,
            vectors,
        ),
        relevant=_padded([e.relevant for e in episodes], shape),
        excluded=_padded([e.excluded for e in episodes], shape, fill=True),
        query_mask=_padded([e.overlap.new_ones(len(e.users)) for e in episodes], (queries,)),
    )
    alone: Inputs = tree_map(lambda tensor: tensor[0], gathered) if len(episodes) == 1 else gathered
    return alone


def repeat_first(rows: Sequence[Tensor]) -> Tensor:
    """Return (E, C) row numbers, short rows padded with their first: valid, and hidden by `Inputs.present`."""
    longest = max(len(row) for row in rows)
    return torch.stack([torch.cat([row, row[:1].expand(longest - len(row))]) for row in rows])


def _users(
    users: Sequence[tuple[Tensor, Tensor, Tensor]],
    episodes: Sequence[Episode],
    candidates: int,
    vectors: Callable[[int, Tensor], Tensor],
) -> Users:
    """Return the users of one role.

    Args:
        users: Of each episode: (R, H) histories, the (H',) columns of them that count, and shares of the past.
        episodes: The episodes.
        candidates: Of the largest episode.
        vectors: As of `gather`.
    """
    places = [episode.held[columns] for (_, columns, _), episode in zip(users, episodes, strict=True)]
    apart = [place >= episode.candidates for place, episode in zip(places, episodes, strict=True)]
    others = [vectors(n, place[behind]) for n, (place, behind) in enumerate(zip(places, apart, strict=True))]
    held = [place.where(~n, candidates - 1 + n.cumsum(0)) for place, n in zip(places, apart, strict=True)]
    rows, most = max(len(history) for history, _, _ in users), max(map(len, places))
    return Users(
        history=_padded([history[:, columns] for history, columns, _ in users], (rows, most)),
        held=_padded(held, (most,)),
        others=_repeated(others),
        past=_padded([past for _, _, past in users], (rows, candidates if users[0][2].shape[1] else 0)),
    )


def _repeated(vectors: Sequence[Tensor]) -> Tensor:
    """Return (E, O, D): the vectors of each episode, padded with its last.

    A vector of zeros has no direction, and a gradient of its own that is not finite.
    """
    most = max(map(len, vectors))
    rows = [torch.arange(most, device=each.device).clamp(max=max(0, len(each) - 1)) for each in vectors]
    ones = vectors[0].new_ones(most, vectors[0].shape[1])
    return torch.stack([each[own] if len(each) else ones for each, own in zip(vectors, rows, strict=True)])


def _padded(tensors: Sequence[Tensor], shape: tuple[int, ...], fill: bool = False) -> Tensor:
    """Return (E, *shape): each tensor at the start of its own row, the rest `fill`."""
    out = tensors[0].new_full((len(tensors), *shape), fill)
    for number, tensor in enumerate(tensors):
        corner = out[number]
        for axis, size in enumerate(tensor.shape):
            corner = corner.narrow(axis, 0, size)
        corner.copy_(tensor)
    return out

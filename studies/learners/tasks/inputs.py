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
        history: (R, C + O) how often each candidate, then each other item, is in a user's history; (R, O) where an
            episode lists the items of histories apart.
        others: (O, D) vectors of the items behind the candidates.
        past: (R, C) the candidate's part of what each user took; (R, 0) where scenes share no items.
    """

    history: Tensor
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
            [(e.support_history, e.support_others, e.support_share) for e in episodes], episodes, candidates, vectors
        ),
        query_users=_users(
            [
                (e.query_history, torch.arange(e.candidates, len(e.items), device=e.items.device), e.query_share)
                for e in episodes
            ],
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
    others = [vectors(number, positions) for number, (_, positions, _) in enumerate(users)]
    rows, most = max(len(history) for history, _, _ in users), max(len(positions) for _, positions, _ in users)
    # An episode that lists the items of histories apart is never put side by side with others.
    shared = 0 if episodes[0].first_held else candidates
    history = users[0][0].new_zeros(len(users), rows, shared + most)
    for number, ((counts, positions, _), episode) in enumerate(zip(users, episodes, strict=True)):
        if shared:
            history[number, : len(counts), : episode.candidates] = counts[:, : episode.candidates]
        history[number, : len(counts), shared : shared + len(positions)] = counts[:, positions - episode.first_held]
    # A vector of zeros has no direction, and a gradient of its own that is not finite: padding repeats a real one.
    places = [torch.arange(most, device=v.device).clamp(max=max(0, len(v) - 1)) for v in others]
    filled = [v[place] if len(v) else v.new_ones(most, v.shape[1]) for v, place in zip(others, places, strict=True)]
    past = _padded([past for _, _, past in users], (rows, candidates if users[0][2].shape[1] else 0))
    return Users(history, torch.stack(filled), past)


def _padded(tensors: Sequence[Tensor], shape: tuple[int, ...], fill: bool = False) -> Tensor:
    """Return (E, *shape): each tensor at the start of its own row, the rest `fill`."""
    out = tensors[0].new_full((len(tensors), *shape), fill)
    for number, tensor in enumerate(tensors):
        corner = out[number]
        for axis, size in enumerate(tensor.shape):
            corner = corner.narrow(axis, 0, size)
        corner.copy_(tensor)
    return out

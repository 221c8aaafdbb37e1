"""The episode: all that a recommender sees of one opening of a scene, and all that it is scored on.

Its indices are local: `items` lists each distinct item of the episode once, the candidates first, so that each text is
encoded once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Episode:
    """One opening of one scene with its support and queries.

    Shapes: C candidates, K support interactions, Q queries (one user each), M distinct items ≥ C, H of which somebody
    had before: a user's history is short, a catalogue is not.

    Attributes:
        scene: Scene code.
        opened: Time of the opening, UTC seconds.
        items: (M,) item codes of the episode; the first C are the candidates, ascending.
        candidates: C.
        held: (H,) position in `items` of each item that a history holds, ascending: the columns of the histories.
        support: (K,) position in `items` of each support interaction's item, in order of time.
        support_history: (K, H) counts of each held item in the support user's history just before the interaction.
        query_history: (Q, H) counts of each held item in the query user's history as of the last support interaction.
        relevant: (Q, C) whether the user takes the candidate after the support and before the window closes.
        excluded: (Q, C) whether the candidate is not ranked for the user, who had it before the query
            (`protocol.repeat = "exclude"`); never relevant.
        elsewhere: (C, B) decayed counts of each candidate in other scenes before the opening, of
            `studies.episodes.elsewhere.PopularityElsewhere`; (C, 0) where scenes share no items.
        elsewhere_total: (B,) sums of these counts over all candidates, those that training leaves out included.
        support_past: (K, C) how often each support user took the candidate before the interaction, in all that the
            episode may know of them, as bytes; (K, 0) where scenes share no items.
        query_past: (Q, C) the same of each query user as of the last support interaction; or (Q, 0).
        support_past_total: (K,) sums of `support_past` over all candidates, also those that training leaves out.
        query_past_total: (Q,) the same of the query users.
        overlap: (K, C) cosine of the words of each support item and each candidate, in [0, 1].
        fields: (K, C) cosine of their texts' fields, in [0, 1].
        terms: (C, T) catalogue terms of each candidate, of `studies.episodes.catalogue_terms.terms`.
        users: (Q,) user code of each query.
        rows: (K,) row of the data set of each support interaction.
    """

    scene: int
    opened: int
    items: Tensor
    candidates: int
    held: Tensor
    support: Tensor
    support_history: Tensor
    query_history: Tensor
    relevant: Tensor
    excluded: Tensor
    elsewhere: Tensor
    elsewhere_total: Tensor
    support_past: Tensor
    query_past: Tensor
    support_past_total: Tensor
    query_past_total: Tensor
    overlap: Tensor
    fields: Tensor
    terms: Tensor
    users: Tensor
    rows: Tensor

    @property
    def encoded(self) -> int:
        """Return how many of the items, from the first, a model encodes; those behind are only in histories."""
        return self.candidates

    @property
    def support_share(self) -> Tensor:
        """Return (K, C) each candidate's part of what the support's users took, of logarithms; (K, 0) like the past."""
        return past_share(self.support_past, self.support_past_total)

    @property
    def query_share(self) -> Tensor:
        """Return (Q, C) the same of the query users."""
        return past_share(self.query_past, self.query_past_total)

    @cached_property
    def support_columns(self) -> Tensor:
        """Return the (H',) columns of the histories that a support user's history fills."""
        return self.support_history.any(dim=0).nonzero().squeeze(1)

    def to(self, device: torch.device) -> Episode:
        """Return the same episode with its tensors on `device`."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {n: value.to(device) for n, value in tensors.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def past_share(past: Tensor, total: Tensor) -> Tensor:
    """Return each candidate's part of what a user took.

    Args:
        past: (R, C) how often.
        total: (R,) sums of `past`.
    """
    return past.to(total) / total.clamp(min=1e-9)[:, None]

"""What a step of the distillation reads of a meta-training episode: a task's own draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studies.episodes.episode import Episode
from studies.training.candidate_sampling import sample_candidates

# From an episode to a part of it, with the rows (queries) and the columns (candidates) of its scores that are left.
Draw = Callable[[Any, np.random.Generator], tuple[Any, Tensor, Tensor]]
# Queries of a step.
QUERIES = 8
# Candidates of a step: what the support and the queries took, and others drawn at random.
CANDIDATES = 48


def draw_ranking(whole: Episode, rng: np.random.Generator) -> tuple[Episode, Tensor, Tensor]:
    """Return an episode of ranking with some of its queries and candidates, and the positions of both."""
    size = min(QUERIES, len(whole.relevant))
    queries = torch.from_numpy(rng.choice(len(whole.relevant), size, replace=False)).to(whole.items.device)
    episode, kept = subsample(whole, queries, rng)
    return episode, queries, kept


def subsample(whole: Episode, queries: Tensor, rng: np.random.Generator) -> tuple[Episode, Tensor]:
    """Return the episode with some of its queries and candidates, and only the items that these and the support need.

    Args:
        whole: The episode.
        queries: (R,) rows of its queries.
        rng: Draws the candidates that remain.

    Returns:
        The smaller episode, and the (C',) positions of its candidates among the whole's.
    """
    some = replace(
        whole,
        query_history=whole.query_history[queries],
        query_past=whole.query_past[queries],
        query_past_total=whole.query_past_total[queries],
        relevant=whole.relevant[queries],
        excluded=whole.excluded[queries],
        users=whole.users[queries],
    )
    small = sample_candidates(some, CANDIDATES, rng)
    kept = torch.searchsorted(whole.items[: whole.candidates], small.items[: small.candidates])
    columns = (small.support_history.any(0) | small.query_history.any(0)).nonzero().squeeze(1)
    needed = torch.zeros_like(small.items, dtype=torch.bool)
    needed[: small.candidates] = needed[small.held[columns]] = True
    return replace(
        small,
        items=small.items[needed],
        held=needed.cumsum(0)[small.held[columns]] - 1,
        support_history=small.support_history[:, columns],
        query_history=small.query_history[:, columns],
    ), kept


def draw_whole(whole: Any, rng: np.random.Generator) -> tuple[Any, Tensor, Tensor]:
    """Return an episode as it is: one of classification is small."""
    rows, columns = (torch.arange(size, device=whole.items.device) for size in whole.relevant.shape)
    return whole, rows, columns


# By the name of the task.
DRAWS: dict[str, Draw] = {"ranking": draw_ranking, "classification": draw_whole}

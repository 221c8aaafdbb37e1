"""Samples candidates of a training episode: an encoder that trains reads every candidate at every update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from studies.episodes.episode import Episode


def sample_candidates(episode: Episode, most: int, rng: np.random.Generator) -> Episode:
    """Return the episode with at most `most` candidates: all that were taken, and others drawn at random.

    A softmax over the taken and a random part of the rest (sampled softmax, Jean et al., ACL 2015, section 3, without
    the correction, which is the same for all uniformly drawn). For training alone: evaluation ranks every candidate.
    Every taken candidate is kept, even where they are more than `most`.

    Args:
        episode: A training episode.
        most: Candidates that remain.
        rng: Draws them.
    """
    if episode.candidates <= most:
        return episode
    device = episode.items.device
    taken = episode.relevant.any(dim=0)
    taken[episode.support] = True
    rest = (~taken).nonzero().squeeze(1).cpu().numpy()
    drawn = rng.choice(rest, min(len(rest), max(0, most - int(taken.sum()))), replace=False)
    taken[torch.from_numpy(drawn).to(device)] = True
    kept = taken.nonzero().squeeze(1)
    # The candidates that are dropped stay in histories: they become items like those of other scenes.
    others = torch.arange(len(episode.items), device=device)
    dropped = (~taken).nonzero().squeeze(1)
    order = torch.cat([kept, dropped, others[episode.candidates :]])
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=device)
    held = place[episode.held]
    columns = held.argsort()
    return replace(
        episode,
        items=episode.items[order],
        candidates=len(kept),
        held=held[columns],
        support=place[episode.support],
        support_history=episode.support_history[:, columns],
        query_history=episode.query_history[:, columns],
        relevant=episode.relevant[:, kept],
        excluded=episode.excluded[:, kept],
        elsewhere=episode.elsewhere[kept],
        support_past=_columns(episode.support_past, kept),
        query_past=_columns(episode.query_past, kept),
        overlap=episode.overlap[:, kept],
        fields=episode.fields[:, kept],
        terms=episode.terms[kept],
    )


def _columns(past: Tensor, kept: Tensor) -> Tensor:
    """Return the columns of the kept candidates; a matrix without columns has none of them."""
    return past[:, kept] if past.shape[1] else past

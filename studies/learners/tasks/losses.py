"""The losses of a scene's support and queries, over the scores of its candidates."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

# Far below any score, and finite: minus infinity times a target of zero would be NaN.
UNRANKED = -1e4


def choice_loss(scores: Tensor, chosen: Tensor, present: Tensor) -> Tensor:
    """Return the softmax cross-entropy of choosing one candidate per row, averaged over rows.

    Args:
        scores: (R, C) scores.
        chosen: (R,) positions of the candidates that were chosen.
        present: (C,) bool, false for padding.
    """
    return functional.cross_entropy(scores.masked_fill(~present, UNRANKED), chosen)


def ranking_loss(scores: Tensor, relevant: Tensor, excluded: Tensor, query_mask: Tensor | None = None) -> Tensor:
    """Return the softmax cross-entropy over candidates, averaged over each query's relevant items, then over queries.

    Args:
        scores: (Q, C) scores.
        relevant: (Q, C) bool, at least one per row.
        excluded: (Q, C) bool: candidates that are not ranked for the query.
        query_mask: (Q,) 1 for a query, 0 for padding; all ones if left out.
    """
    scores = scores.masked_fill(excluded, UNRANKED)
    target = relevant.to(scores.dtype)
    target = target / target.sum(1, keepdim=True).clamp(min=1)
    losses = -(target * scores.log_softmax(1)).sum(1)
    return losses.mean() if query_mask is None else (losses * query_mask).sum() / query_mask.sum()

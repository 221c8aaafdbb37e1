"""Hard loss: the student ranks what users took first, as its teachers were trained to."""

from __future__ import annotations

from torch import Tensor

from distill.losses.batches import RankingBatch
from studies.learners.tasks.losses import ranking_loss


def hard_loss(batch: RankingBatch) -> Tensor:
    """Return the cross-entropy of what users took, the teachers' own training loss.

    Args:
        batch: Scores of the student: (Q, C), with what is relevant and excluded.

    Returns:
        A scalar of at least 0.
    """
    return ranking_loss(batch.student, batch.relevant, batch.excluded)

"""Margin loss: the student's distances between taken and other candidates are the teachers'."""

from __future__ import annotations

from torch import Tensor

from distill.losses.batches import RankingBatch


def margin_mse(batch: RankingBatch) -> Tensor:
    """Return the squared difference of the margins of taken over other candidates (Hofstätter et al. 2020, eq. 2).

    Averaged over each query's pairs, then over queries. With p the mean over taken, n over other candidates of the
    differences d = student - teacher, it is the mean of d² of both less 2·p·n: no (taken, other) matrix is made.

    Args:
        batch: Scores, student and teacher: (Q, C), with what is relevant and excluded.

    Returns:
        A scalar of at least 0; queries whose every candidate was taken count as 0.
    """
    difference = batch.student - batch.teacher
    taken, other = batch.relevant & ~batch.excluded, ~batch.relevant & ~batch.excluded

    def mean(values: Tensor, of: Tensor) -> Tensor:
        return (values * of).sum(1) / of.sum(1).clamp(min=1)

    pairs = mean(difference.square(), taken) + mean(difference.square(), other)
    pairs = pairs - 2 * mean(difference, taken) * mean(difference, other)
    return (pairs * (taken.any(1) & other.any(1))).mean()

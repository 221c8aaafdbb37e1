"""The same distance between what a user took and what they left."""

from __future__ import annotations

from torch import Tensor


def margin_mse(student: Tensor, teacher: Tensor, relevant: Tensor, excluded: Tensor) -> Tensor:
    """Squared difference of the margins between taken and left candidates (Hofstätter et al. 2020, MarginMSE, eq. 2).

    Averaged over each query's pairs, then over queries. With p the mean over taken, n over left candidates of the
    differences d = student − teacher, it is the mean of d² of both less 2·p·n: no (taken, left) matrix is made.

    Args:
        student: (Q, C) scores, after adapting to the support.
        teacher: (Q, C) scores, after adapting to the same; constants added to a row change nothing.
        relevant: (Q, C) bool, what the user took.
        excluded: (Q, C) bool, candidates that are not ranked for the query.

    Returns:
        A scalar ≥ 0; queries whose every candidate was taken count as 0.
    """
    difference = student - teacher
    taken, left = relevant & ~excluded, ~relevant & ~excluded

    def mean(values: Tensor, of: Tensor) -> Tensor:
        return (values * of).sum(1) / of.sum(1).clamp(min=1)

    pairs = mean(difference.square(), taken) + mean(difference.square(), left)
    pairs = pairs - 2 * mean(difference, taken) * mean(difference, left)
    return (pairs * (taken.any(1) & left.any(1))).mean()

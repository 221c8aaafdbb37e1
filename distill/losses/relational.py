"""The same texts, the same similarities among them."""

from __future__ import annotations

from torch import Tensor


def relational_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two Gram matrices off their diagonals (Tung & Mori 2019, eq. 4).

    What a ranking reads of vectors is their products; no rotation of the student's changes it.

    Args:
        student: (B, D) vectors of length 1.
        teacher: (B, D') vectors of length 1 of the same texts.

    Returns:
        A scalar in [0, 4]; 0 for a single text.
    """
    size = len(student)
    return (student @ student.T - teacher @ teacher.T).square().sum() / max(1, size * (size - 1))

"""Relational loss: the student's similarities between texts are the teacher's."""

from __future__ import annotations

from torch import Tensor

from distill.losses.batches import VectorBatch


def relational_loss(batch: VectorBatch) -> Tensor:
    """Return the mean squared difference of two Gram matrices off their diagonals (Tung & Mori 2019, eq. 4).

    A ranking reads products of vectors; rotating all of the student's vectors changes none of them.

    Args:
        batch: Vectors, student: (B, D), teacher: (B, D'), of any two widths.

    Returns:
        A scalar in [0, 4]; 0 for a single text.
    """
    student, teacher = batch.student, batch.teacher
    size = len(student)
    return (student @ student.T - teacher @ teacher.T).square().sum() / max(1, size * (size - 1))

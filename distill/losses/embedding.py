"""Embedding loss: the student's vector of a text is the teacher's."""

from __future__ import annotations

from torch import Tensor

from distill.losses.batches import VectorBatch


def embedding_loss(batch: VectorBatch) -> Tensor:
    """Return 1 - cosine, averaged over texts (Reimers & Gurevych 2020, eq. 1).

    Of vectors of length 1 this is half their squared distance, so MSE is the same loss at another weight.

    Args:
        batch: Vectors, student and teacher: (B, D).

    Returns:
        A scalar in [0, 2].
    """
    return 1 - (batch.student * batch.teacher).sum(1).mean()

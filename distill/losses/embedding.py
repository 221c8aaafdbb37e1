"""The same text, the same vector."""

from __future__ import annotations

from torch import Tensor


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cosine, averaged over texts (Reimers & Gurevych 2020, eq. 1).

    Of vectors of length 1 this is half their squared distance, so that MSE is the same loss at another weight.

    Args:
        student: (B, D) vectors of length 1.
        teacher: (B, D) vectors of length 1 of the same texts.

    Returns:
        A scalar in [0, 2].
    """
    return 1 - (student * teacher).sum(1).mean()

"""The same tokens, the same states between the layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def hidden_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, projection: nn.Linear | None = None
) -> Tensor:
    """Mean squared difference of hidden states, of what is no padding (Jiao et al. 2020, TinyBERT, eq. 8).

    Args:
        student: (B, L, W) states after some layers.
        teacher: (B, L, D) states after the teacher's layers that these stand for.
        mask: (B, L) true where there is a token.
        projection: W → D, where the student is narrower.

    Returns:
        A scalar ≥ 0, the mean over layers, tokens and components.
    """
    losses = [
        functional.mse_loss((ours if projection is None else projection(ours))[mask].float(), theirs[mask].float())
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(losses).mean()

"""Hidden-state loss: the student's states between layers are the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from distill.losses.batches import StateBatch


def hidden_loss(batch: StateBatch) -> Tensor:
    """Return the mean squared difference of hidden states, padding left out (Jiao et al. 2020, TinyBERT, eq. 8).

    Args:
        batch: States, student and teacher: (B, L, D) each.

    Returns:
        A scalar of at least 0, the mean over layers, tokens and components.
    """
    losses = [
        functional.mse_loss(ours[batch.mask].float(), theirs[batch.mask].float())
        for ours, theirs in zip(batch.student, batch.teacher, strict=True)
    ]
    return torch.stack(losses).mean()

"""The loss that contrastive objectives share: the other texts of a batch are the negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def in_batch_loss(anchors: Tensor, others: Tensor, temperature: float, ignored: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of each anchor's own partner among all, a scalar (InfoNCE, van den Oord et al. 2018).

    Args:
        anchors: (B, D) vectors of length 1.
        others: (B, D) vectors of length 1; that of the same row is the anchor's partner.
        temperature: What cosines are divided by.
        ignored: (B, B) true where a partner of another anchor may be one of this anchor too; never on the diagonal.
    """
    logits = anchors @ others.T / temperature
    if ignored is not None:
        logits = logits.masked_fill(ignored, -torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(anchors), device=anchors.device))

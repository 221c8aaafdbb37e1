"""Pools the hidden states of a text's tokens into its vector."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from studies.config.definition import Pooling

__all__ = ["Pooling", "pool"]


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling = "mean") -> Tensor:
    """Return (B, D) vectors in fp32, scaled to length 1 (Sentence-BERT, Reimers 2019).

    Args:
        hidden: (B, L, D) states of the tokens.
        mask: (B, L) true where there is a token; the first of every row is one.
        pooling: "mean" of the states, "cls": the first token's, or "max": the greatest of each component.
    """
    if pooling == "cls":
        return functional.normalize(hidden[:, 0].float(), dim=-1)
    if pooling == "max":
        lowest = torch.finfo(torch.float32).min
        return functional.normalize(hidden.float().masked_fill(~mask[..., None].bool(), lowest).amax(1), dim=-1)
    weight = mask[..., None].float()
    return functional.normalize((hidden.float() * weight).sum(1) / weight.sum(1), dim=-1)

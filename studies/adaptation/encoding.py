"""The encoder while it is adapted: a copy of its own, whose layers train."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from studies.model.device import autocast, device, device_settings
from studies.model.encoder import Encoder, Ragged, by_length
from studies.model.pooling import pool
from studies.model.towers import in_groups


class AdaptingEncoder(nn.Module):
    """An encoder in training over the texts of a corpus.

    The table of tokens stays as it was pretrained, as in a trial: the words of new scenes keep their place among those
    that the shop's texts have.

    Args:
        encoder: The pretrained encoder; its model is read anew, and stays as it is.
        tokens: The corpus in its vocabulary.
        dropout: Rate in training mode, whatever the model was pretrained with.
    """

    def __init__(self, encoder: Encoder, tokens: Ragged, dropout: float) -> None:
        super().__init__()
        self.tokens, self._pooling = tokens, encoder.pooling
        self.model = cast("Any", encoder.read())
        self.model.requires_grad_(True)
        self.model.to(device())
        self.model.get_input_embeddings().requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        self.eval()

    def vectors(self, rows: Tensor) -> Tensor:
        """Return the (R, D) vectors, of length 1, of (R,) texts, encoded in groups of similar length."""
        lengths = self.tokens.lengths[rows]
        groups = [
            (group, *self.tokens.padded(rows[group], device()))
            for group in by_length(lengths, device_settings().distil_tokens)
        ]
        return in_groups(lambda ids, mask: pool(self.states(ids, mask), mask, self._pooling), groups)

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the (R, L, D) states after the last layer of (R, L) token ids."""
        with autocast():
            found: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return found


def chosen(rng: Any, count: int, size: int) -> Tensor:
    """Return (min(size, count),) numbers below `count`, each once."""
    return torch.from_numpy(rng.choice(count, min(size, count), replace=False))

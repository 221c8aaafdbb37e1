"""Item towers: what turns item codes into vectors for the head to compare.

The layers that a trial does not train are never run again: a tower starts from their cached activations
(`studies/model/activation_cache.py`). Candidates are read by the tower; items that only histories hold are looked up
among the vectors of the pretrained encoder, whatever a trial trains (`locked`). A user's side that stays as it was
pretrained costs nothing to read again, and candidates are a seventh of an episode's texts (as in Zhai et al., "LiT:
Zero-Shot Transfer with Locked-image Text Tuning", CVPR 2022, of two towers; docs/decisions.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from studies.config.hyperparameters import LearnerName
from studies.model.activation_cache import ActivationCache
from studies.model.device import autocast, device
from studies.model.encoder import Encoder, Ragged, by_length, pool, run_layers

Attention = Literal["eager", "sdpa"]
# Numbers in a hidden state of one pass of the trained layers: small groups of texts of similar length halve the time of
# MiniLM on a CPU, where a GPU wants large ones (docs/decisions.md).
NUMBERS = {"cpu": 2**18, "cuda": 2**24}


class FrozenTower(nn.Module):
    """Item vectors looked up in the cached embeddings of a frozen encoder.

    Attributes:
        locked: (N, D) the same vectors.
    """

    locked: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("locked", table, persistent=False)

    def forward(self, items: Tensor) -> Tensor:
        """(M,) item codes → (M, D) vectors of length 1."""
        return self.locked[items]


class TopLayers(nn.Module):
    """A copy of an encoder's top layers, trainable; of all that is above the token table where it takes every layer.

    The token table stays out: it is half of a small BERT, and a handful of texts would move a few of its rows.
    """

    def __init__(self, encoder: Encoder, layers: int, attention: Attention) -> None:
        super().__init__()
        bert = encoder.model
        self.layer = copy.deepcopy(bert.encoder.layer[-layers:])
        for layer in self.layer:
            layer.attention.self.config._attn_implementation = attention  # type: ignore[union-attr]
        self.embeddings: nn.Module | None = None
        if layers == encoder.layers:
            table = bert.embeddings.word_embeddings
            self.embeddings = copy.deepcopy(bert.embeddings, {id(table): nn.Identity()})
        self.requires_grad_(True)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(R, L, D) states that enter the layers, and their (R, L) mask → (R, D) vectors of length 1."""
        with autocast():
            state = hidden.float()
            if self.embeddings is not None:
                state = self.embeddings(inputs_embeds=state)
            state = run_layers(self.layer, state, mask)
        return pool(state, mask)


class TopLayersTower(nn.Module):
    """Item vectors from the encoder's top layers, trainable, over the cached hidden states below them.

    Attributes:
        reader: the layers that train.
        locked: (N, D) vectors of the pretrained encoder, for histories.
    """

    locked: Tensor

    def __init__(self, reader: TopLayers, hidden: Ragged, locked: Tensor, *, compiled: bool = False) -> None:
        super().__init__()
        self.reader = reader
        self._hidden = hidden
        self._run: Callable[[Tensor, Tensor], Tensor] = reader.forward
        if compiled:
            self._run = torch.compile(reader.forward, dynamic=True)
        self.register_buffer("locked", locked, persistent=False)

    def forward(self, items: Tensor) -> Tensor:
        """(M,) item codes → (M, D) vectors of length 1."""
        return in_groups(self._run, self.groups(items))

    def texts(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """(R, L, D) cached states of some items' texts, padded to the longest, and their (R, L) mask."""
        return self._hidden.padded(items, next(self.reader.parameters()).device)

    def groups(self, items: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The same in groups of texts of similar length, each with its (R,) rows among `items`."""
        rows = by_length(self.lengths(items), NUMBERS[device().type] // self.width)
        return [(group, *self.texts(items[group.to(items.device)])) for group in rows]

    @property
    def width(self) -> int:
        """Size W of a hidden state."""
        return int(self._hidden.values.shape[1])

    def lengths(self, items: Tensor) -> Tensor:
        """(M,) tokens of each item's text."""
        return self._hidden.lengths[items.cpu()]


Tower = FrozenTower | TopLayersTower


def in_groups(reader: Callable[[Tensor, Tensor], Tensor], groups: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """(M, D) vectors of texts that are read group by group, in the order of the groups' rows."""
    vectors = torch.cat([reader(hidden, mask) for _, hidden, mask in groups])
    rows = torch.cat([group for group, _, _ in groups]).to(vectors.device)
    return vectors[torch.argsort(rows)]


def attention_for(wanted: Literal["auto", "eager", "sdpa"], learner: LearnerName) -> Attention:
    """The attention kernel of a trial's trained layers.

    SDPA has no second derivative, which MAML needs; on CPUs its backward pass over short texts is slower than eager's
    (docs/decisions.md).
    """
    if wanted != "auto":
        return wanted
    return "eager" if learner == "maml" or device().type == "cpu" else "sdpa"


def build_tower(
    encoder: Encoder, cache: ActivationCache, trainable_layers: int, attention: Attention, *, compiled: bool = False
) -> Tower:
    """The item tower of a trial, over activations that `cache.build` has computed.

    Args:
        encoder: the pretrained encoder.
        cache: of its frozen layers.
        trainable_layers: how many of its top layers train.
        attention: kernel of these layers.
        compiled: run them through `torch.compile`: half a minute at the start, and no second derivative.
    """
    if trainable_layers == 0:
        return FrozenTower(cache.pooled())
    reader = TopLayers(encoder, trainable_layers, attention)
    return TopLayersTower(reader, cache.hidden(trainable_layers), cache.pooled(), compiled=compiled)

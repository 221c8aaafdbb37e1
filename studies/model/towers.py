"""Item towers: map item codes to vectors, which the head compares.

A tower starts from the cached activations of the layers that a trial does not train
(`studies/model/activation_cache.py`). It encodes the candidates. Items that are only in histories are looked up in
`locked`, the vectors of the pretrained encoder, whatever a trial trains: the locked side of two towers (Zhai et al.,
"LiT: Zero-Shot Transfer with Locked-image Text Tuning", CVPR 2022). Candidates are a seventh of an episode's texts, so
this saves most of the encoding (docs/decisions.md).

A tower is in evaluation mode, except in the block of `dropping_out`, which a training step opens: no evaluation has to
switch anything off, nor could it leave anything on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from studies.learners.registry import LEARNERS
from studies.model.activation_cache import ActivationCache
from studies.model.device import Attention, autocast, device_settings
from studies.model.encoder import Encoder, Ragged, by_length, run_layers
from studies.model.pooling import pool
from studies.model.pretrained.parts import embed

# Texts of similar length that pass the trained layers together: (R,) positions, (R, L, D) cached states, (R, L) mask.
TextGroup = tuple[Tensor, Tensor, Tensor]


class FrozenTower(nn.Module):
    """Item vectors looked up in the cached embeddings of a frozen encoder.

    Attributes:
        locked: (N, D) vectors of the pretrained encoder.
    """

    locked: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("locked", table, persistent=False)

    def forward(self, items: Tensor) -> Tensor:
        """Return the (M, D) vectors, of length 1, of (M,) item codes."""
        return self.locked[items]


class TopLayers(nn.Module):
    """A trainable copy of an encoder's top layers; with all layers, also of its embeddings without the token table.

    The token table does not train: it is half of a small BERT, and a few texts would change only a few of its rows.
    What all layers share, such as relative positions, is copied too, and the copy trains.

    Args:
        encoder: The pretrained encoder.
        layers: Number of its top layers.
        attention: Kernel of these layers.
        dropout: Rate of their dropout in training mode, whatever the encoder was pretrained with.
    """

    def __init__(self, encoder: Encoder, layers: int, attention: Attention, dropout: float = 0.0) -> None:
        super().__init__()
        parts = encoder.parts
        self.layer = copy.deepcopy(parts.layers[-layers:])
        self.shared = copy.deepcopy(parts.shared, {id(parts.layers): nn.ModuleList()})
        self.final = copy.deepcopy(parts.final)
        self.embeddings: nn.Module | None = None
        self.projection: nn.Module | None = None
        if layers == encoder.layers:
            self.embeddings = copy.deepcopy(parts.embeddings, {id(parts.words): nn.Identity()})
            self.projection = copy.deepcopy(parts.projection)
        self._prepare, self._pooling = encoder.architecture.prepare, encoder.pooling
        for module in self.modules():
            _set_kernel(module, encoder.attention(attention), dropout)
        self.requires_grad_(True)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the (R, D) vectors, of length 1, of (R, L, D) input states and their (R, L) mask."""
        with autocast():
            state = hidden.float()
            if self.embeddings is not None:
                state = embed(self.embeddings, self.projection, state)
            state = run_layers(self.layer, state, mask, self._prepare, self.shared)
            if self.final is not None:
                state = self.final(state)
        return pool(state, mask, self._pooling)


def _set_kernel(module: Any, attention: Attention, dropout: float) -> None:
    """Set the attention kernel and the dropout of one module of a copied layer."""
    if hasattr(module, "config"):
        module.config._attn_implementation = attention
    if isinstance(module, nn.Dropout):
        module.p = dropout
    if hasattr(module, "attention_dropout"):  # ModernBERT's is a number
        module.attention_dropout = dropout


class TopLayersTower(nn.Module):
    """Item vectors from the encoder's trainable top layers, over the cached hidden states below them.

    Attributes:
        top_layers: The layers that train.
        locked: (N, D) vectors of the pretrained encoder, for histories.
    """

    locked: Tensor

    def __init__(self, top_layers: TopLayers, hidden: Ragged, locked: Tensor, *, compiled: bool = False) -> None:
        super().__init__()
        self.top_layers = top_layers
        self._hidden = hidden
        self._run: Callable[[Tensor, Tensor], Tensor] = top_layers.forward
        if compiled:
            self._run = torch.compile(top_layers.forward, dynamic=True)
        self.register_buffer("locked", locked, persistent=False)
        self.eval()

    def forward(self, items: Tensor) -> Tensor:
        """Return the (M, D) vectors, of length 1, of (M,) item codes."""
        return in_groups(self._run, self.groups(items))

    def texts(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (R, L, D) cached states of items' texts, padded to the longest, and their (R, L) mask."""
        return self._hidden.padded(items, next(self.top_layers.parameters()).device)

    def groups(self, items: Tensor) -> list[TextGroup]:
        """Return what `texts` returns, in groups of similar length, each after its (R,) positions in `items`."""
        rows = by_length(self.lengths(items), device_settings().train_elements // self.width)
        return [(group, *self.texts(items[group.to(items.device)])) for group in rows]

    @property
    def width(self) -> int:
        """Return the size D of a hidden state."""
        return int(self._hidden.values.shape[1])

    def lengths(self, items: Tensor) -> Tensor:
        """Return the (M,) token counts of items' texts."""
        return self._hidden.lengths[items.cpu()]


Tower = FrozenTower | TopLayersTower


def in_groups(encode: Callable[[Tensor, Tensor], Tensor], groups: list[TextGroup]) -> Tensor:
    """Return the (M, D) vectors of texts that `encode` encodes group by group, in the order of their positions."""
    vectors = torch.cat([encode(hidden, mask) for _, hidden, mask in groups])
    rows = torch.cat([group for group, _, _ in groups]).to(vectors.device)
    return vectors[torch.argsort(rows)]


@contextmanager
def dropping_out(tower: nn.Module, seed: Sequence[int]) -> Iterator[None]:
    """Train with dropout within the block; what is dropped is a function of `seed` alone, so no state has to be kept.

    Args:
        tower: The tower whose layers train.
        seed: Whole numbers, such as the trial's seed and the step.
    """
    where = next(tower.parameters()).device
    with torch.random.fork_rng([where] if where.type == "cuda" else []):
        torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
        tower.train()
        try:
            yield
        finally:
            tower.eval()


def attention_for(wanted: Literal["auto", "eager", "sdpa"], learner: str) -> Attention:
    """Return the attention kernel of a trial's trained layers.

    SDPA has no second derivative, which some learners need.
    """
    if wanted != "auto":
        return wanted
    return "eager" if LEARNERS[learner].needs_eager_attention else device_settings().attention


def build_tower(
    encoder: Encoder,
    cache: ActivationCache,
    trainable_layers: int,
    attention: Attention,
    *,
    dropout: float = 0.0,
    compiled: bool = False,
) -> Tower:
    """Return the item tower of a trial, over activations that `cache.build` has computed.

    Args:
        encoder: The pretrained encoder.
        cache: The activations of its frozen layers.
        trainable_layers: Number of its top layers that train.
        attention: Kernel of these layers.
        dropout: Rate of their dropout in the block of `dropping_out`.
        compiled: Whether to run them through `torch.compile`, which takes half a minute at the start and has no second
            derivative.
    """
    if trainable_layers == 0:
        return FrozenTower(cache.pooled())
    top_layers = TopLayers(encoder, trainable_layers, attention, dropout)
    return TopLayersTower(top_layers, cache.hidden(trainable_layers), cache.pooled(), compiled=compiled)

"""The parts of a loaded encoder: token table, embeddings, layers, and what surrounds these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from studies.model.pretrained.architectures import ARCHITECTURES

# For type checkers alone: transformers takes seconds to import.
if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Parts(NamedTuple):
    """The parts of a loaded encoder, from its tokens' ids to its last hidden states.

    Attributes:
        words: The table of word embeddings.
        embeddings: Adds positions, token types and a norm to these.
        projection: From the width of embeddings to that of hidden states; None where they are equal.
        layers: The layers, lowest first.
        shared: What all layers share; None where they share nothing.
        final: The norm behind the last layer; None where there is none.
    """

    words: nn.Embedding
    embeddings: nn.Module
    projection: nn.Module | None
    layers: nn.ModuleList
    shared: nn.Module | None
    final: nn.Module | None

    def embed(self, words: Tensor) -> Tensor:
        """Return the (B, L, D) input of the first layer, of (B, L, ...) word embeddings."""
        return embed(self.embeddings, self.projection, words)

    def finish(self, state: Tensor) -> Tensor:
        """Return the (B, L, D) last hidden states, of the output of the last layer."""
        return state if self.final is None else self.final(state)


def embed(embeddings: nn.Module, projection: nn.Module | None, words: Tensor) -> Tensor:
    """Return the (B, L, D) input of the first layer, of (B, L, ...) word embeddings; see `Parts`."""
    # In fp32: a projection would give bf16 states, and norms of these have no second derivative under vmap.
    with torch.autocast(words.device.type, enabled=False):
        state: Tensor = embeddings(input_ids=None, inputs_embeds=words)
        return state if projection is None else projection(state)


def parts_of(model: PreTrainedModel) -> Parts:
    """Return the parts of a model whose architecture is registered."""
    row = ARCHITECTURES[model.config.model_type]
    made: Any = model
    return Parts(
        words=made.get_input_embeddings(),
        embeddings=made.embeddings,
        projection=getattr(made, "embeddings_project", None),
        layers=made.get_submodule(row.layers),
        shared=made.get_submodule(row.shared) if row.shared else None,
        final=made.get_submodule(row.final) if row.final else None,
    )

"""Texts whose layers the inner loop moves: the cached states of their tokens, encoded by adapted weights.

Tasks of recommenders and of classifiers that adapt the encoder start from these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.func import functional_call

from studies.learners.inner_loop import Weights
from studies.learners.registry import AdaptedParameters
from studies.learners.tasks.inputs import repeat_first
from studies.model.adapting_model import AdaptingModel
from studies.model.towers import TextGroup, TopLayers, TopLayersTower, in_groups

_LAYERS = "tower.top_layers."


class TokenStates(Protocol):
    """The cached states that some texts' tokens enter the top layers with."""

    def encode(self, layers: TopLayers, weights: Weights) -> Tensor:
        """Return the texts' vectors by these layers, (C, D) or (E, C, D).

        Args:
            layers: The layers.
            weights: Their adapted weights by name; those left out are their own.
        """


@dataclass(frozen=True)
class GroupedTokens:
    """The states of one episode's texts, in groups of similar length."""

    groups: list[TextGroup]

    def encode(self, layers: TopLayers, weights: Weights) -> Tensor:
        """Return (C, D) vectors."""
        return in_groups(lambda hidden, mask: functional_call(layers, weights, (hidden, mask)), self.groups)


@dataclass(frozen=True)
class PaddedTokens:
    """The states of E episodes' texts, padded to one shape.

    Attributes:
        hidden: (E, C, L, W) states.
        mask: (E, C, L) mask.
    """

    hidden: Tensor
    mask: Tensor

    def encode(self, layers: TopLayers, weights: Weights) -> Tensor:
        """Return (E, C, D) vectors by each episode's own weights, (E, ...)."""

        def of_one(weights: Weights, hidden: Tensor, mask: Tensor) -> Tensor:
            vectors: Tensor = functional_call(layers, weights, (hidden, mask))
            return vectors

        # Each episode drops out states of its own.
        return torch.vmap(of_one, randomness="different")(weights, self.hidden, self.mask)


def token_states(tower: TopLayersTower, texts: Sequence[Tensor]) -> TokenStates:
    """Return the tokens of one episode's (C,) texts, or of those of several episodes that run side by side."""
    if len(texts) == 1:
        return GroupedTokens(tower.groups(texts[0]))
    rows = repeat_first(texts)
    hidden, mask = tower.texts(rows.flatten())
    return PaddedTokens(hidden.view(*rows.shape, *hidden.shape[1:]), mask.view(*rows.shape, -1))


def layer_weights(weights: Weights) -> Weights:
    """Return the adapted weights of the encoder's top layers, by their names there."""
    return {name.removeprefix(_LAYERS): w for name, w in weights.items() if name.startswith(_LAYERS)}


def encoder_adapts(model: AdaptingModel, adapts: AdaptedParameters) -> bool:
    """Return whether the inner loop moves weights of a model's encoder."""
    return adapts == "everything" and model.encoder_trains


def top_layers_tower(model: AdaptingModel) -> TopLayersTower:
    """Return the tower of a model whose encoder trains."""
    assert isinstance(model.tower, TopLayersTower)
    return model.tower


def largest_state(model: AdaptingModel, items: Tensor) -> int:
    """Return the elements of the texts' hidden states in one layer, padded to the longest."""
    tower = top_layers_tower(model)
    return len(items) * int(tower.lengths(items).max()) * tower.width

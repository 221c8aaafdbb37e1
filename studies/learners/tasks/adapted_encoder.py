"""A task whose inner loop moves the encoder's top layers: it starts from the states of the candidates' tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.func import functional_call

from studies.episodes.episode import Episode
from studies.learners.inner_loop import Weights
from studies.learners.registry import AdaptedParameters
from studies.learners.tasks.inputs import repeat_first
from studies.learners.tasks.scene_task import SceneTask
from studies.model.recommender import Recommender
from studies.model.towers import TextGroup, TopLayers, TopLayersTower, in_groups

_LAYERS = "tower.top_layers."


class TokenStates(Protocol):
    """The cached states that the candidates' tokens enter the top layers with."""

    def encode(self, layers: TopLayers, weights: Weights) -> Tensor:
        """Return the candidates' vectors by these layers, (C, D) or (E, C, D).

        Args:
            layers: The layers.
            weights: Their adapted weights by name; those left out are their own.
        """


@dataclass(frozen=True)
class GroupedTokens:
    """The states of one episode, in groups of texts of similar length."""

    groups: list[TextGroup]

    def encode(self, layers: TopLayers, weights: Weights) -> Tensor:
        """Return (C, D) vectors."""
        return in_groups(lambda hidden, mask: functional_call(layers, weights, (hidden, mask)), self.groups)


@dataclass(frozen=True)
class PaddedTokens:
    """The states of E episodes, padded to one shape.

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


@dataclass(kw_only=True, eq=False)
class AdaptedEncoderTask(SceneTask):
    """Encodes the candidates' texts anew with every inner step.

    Attributes:
        tokens: The candidates' texts.
    """

    tokens: TokenStates

    def _candidate_vectors(self, weights: Weights) -> Tensor:
        moved = {name.removeprefix(_LAYERS): w for name, w in weights.items() if name.startswith(_LAYERS)}
        if not moved:
            return self._unadapted_vectors
        return self.tokens.encode(top_layers_tower(self.model).top_layers, moved)


def encoder_adapts(model: Recommender, adapts: AdaptedParameters) -> bool:
    """Return whether the inner loop moves weights of the encoder."""
    return adapts == "everything" and model.encoder_trains


def top_layers_tower(model: Recommender) -> TopLayersTower:
    """Return the tower of a recommender whose encoder trains."""
    assert isinstance(model.tower, TopLayersTower)
    return model.tower


def token_states(tower: TopLayersTower, episodes: Sequence[Episode]) -> TokenStates:
    """Return the candidates' tokens of one episode, or of several that run side by side."""
    if len(episodes) == 1:
        return GroupedTokens(tower.groups(episodes[0].items[: episodes[0].candidates]))
    rows = repeat_first([episode.items[: episode.candidates] for episode in episodes])
    hidden, mask = tower.texts(rows.flatten())
    return PaddedTokens(hidden.view(*rows.shape, *hidden.shape[1:]), mask.view(*rows.shape, -1))

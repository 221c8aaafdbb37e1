"""A task whose inner loop moves the encoder's top layers: it starts from the states of the candidates' tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from studies.learners.inner_loop import Weights
from studies.learners.tasks.scene_task import SceneTask
from studies.learners.tasks.token_states import TokenStates, layer_weights, top_layers_tower


@dataclass(kw_only=True, eq=False)
class AdaptedEncoderTask(SceneTask):
    """Encodes the candidates' texts anew with every inner step.

    Attributes:
        tokens: The candidates' texts.
    """

    tokens: TokenStates

    def _candidate_vectors(self, weights: Weights) -> Tensor:
        moved = layer_weights(weights)
        if not moved:
            return self._unadapted_vectors
        return self.tokens.encode(top_layers_tower(self.model).top_layers, moved)

"""A task whose inner loop leaves the encoder alone: it starts from the candidates' vectors."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from studies.learners.inner_loop import Weights
from studies.learners.tasks.inputs import Inputs, UserRole
from studies.learners.tasks.scene_task import SceneTask, only_score_weights
from studies.model.scene_encoding import SceneEncoding, ScoreFeatures


@dataclass(kw_only=True, eq=False)
class FrozenEncoderTask(SceneTask):
    """Encodes the scene from vectors that no inner step moves; the outer loop may still train the tower below them.

    While nothing but the preference, the features' weights and the bias adapts, the features are computed once.
    """

    _features: dict[UserRole, ScoreFeatures] = field(default_factory=dict, init=False)
    _encodings: dict[UserRole, SceneEncoding] = field(default_factory=dict, init=False)

    def _candidate_vectors(self, weights: Weights) -> Tensor:
        return self._unadapted_vectors

    def _score_features(self, weights: Weights, role: UserRole) -> ScoreFeatures:
        if not only_score_weights(weights):
            return super()._score_features(weights, role)
        if role not in self._features:
            with torch.set_grad_enabled(self.training):
                self._features[role] = super()._score_features({}, role)
        return self._features[role]

    def _encode(self, weights: Weights, inputs: Inputs, role: UserRole, vectors: Tensor) -> SceneEncoding:
        # Kept for `adapted`; not side by side, where tensors live only inside vmap, nor together with a graph.
        if self.training or self.episodes is not None or not only_score_weights(weights):
            return super()._encode(weights, inputs, role, vectors)
        if role not in self._encodings:
            self._encodings[role] = super()._encode(weights, inputs, role, vectors)
        return self._encodings[role]

"""A classifier after adapting to a support: classifies any text among the classes of that support."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from studies.classification.episode import LabelledEpisode
from studies.classification.learning.head import projected


class ClassifiesVectors(Protocol):
    """Any classifier of some classes, whether it has adapted to them or not."""

    def probabilities(self, vectors: Tensor) -> Tensor:
        """Return the (R, N) probabilities of texts, given by their (R, D) vectors."""


@dataclass(frozen=True)
class AdaptedClassifier:
    """A classifier of N classes, in the order of the episode's.

    Attributes:
        projection: (D, D) weight of the head's projection.
        scale: What the products of vectors and class weights are multiplied by.
        class_weights: (N, D) weights of the classes, of length 1 but for ridge regression.
        bias: (N,) biases of the classes.
        encode_query: Encodes the episode's query by the layers as they are adapted.
        encode: Encodes texts by their codes: by the model's tower, its layers as they are adapted.
    """

    projection: Tensor
    scale: Tensor
    class_weights: Tensor
    bias: Tensor
    encode_query: Callable[[], Tensor]
    encode: Callable[[Tensor], Tensor]

    @cached_property
    def query_vectors(self) -> Tensor:
        """Return the (Q, D) vectors of the episode's query, to classify with `logits` or `probabilities`.

        Where the encoder has adapted, vectors from the unadapted tower are of another space.
        """
        return self.encode_query()

    def predict(self, episode: LabelledEpisode, vectors: Tensor) -> Tensor:
        """Return the (Q, N) logits of an episode's queries, encoded by the layers as they are adapted."""
        return self.logits(self.query_vectors)

    def logits(self, vectors: Tensor) -> Tensor:
        """Return the (R, N) logits of texts, given by their (R, D) vectors."""
        return self.scale * projected(vectors, self.projection) @ self.class_weights.T + self.bias

    def probabilities(self, vectors: Tensor) -> Tensor:
        """Return the (R, N) probabilities of texts, given by their (R, D) vectors."""
        return self.logits(vectors).softmax(-1)

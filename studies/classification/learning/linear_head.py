"""The head of a student of known classes: a linear layer over a text's vector, which adapts to nothing.

    logits = scale · (vector · weightᵀ + bias)

The scale is a weight of its own, as in the teacher's head: one number moves faster than all weights together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from studies.classification.episode import LabelledEpisode
from studies.classification.learning.tasks import LabelledTasks
from studies.config.hyperparameters import Hyperparameters
from studies.learners.base import Learner
from studies.learners.registry import LEARNERS
from studies.model.adapting_model import AdaptingModel
from studies.model.device import device


class LinearHead(nn.Module):
    """Classifies vectors among known classes.

    Args:
        width: Size D of a vector.
        labels: The names of the classes.
    """

    scalars = ("log_scale",)

    def __init__(self, width: int, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.labels = labels
        self.log_scale = nn.Parameter(torch.tensor(0.0))
        self.classifier = nn.Linear(width, len(labels))

    def joint_logits(self, vectors: Tensor) -> Tensor:
        """Return the (..., N) logits of (..., D) vectors of length 1."""
        logits: Tensor = self.log_scale.exp() * self.classifier(vectors)
        return logits


@dataclass(frozen=True)
class LinearClassifier:
    """A classifier of N known classes, in the order of its head's labels."""

    head: LinearHead

    def predict(self, episode: LabelledEpisode, vectors: Tensor) -> Tensor:
        """Return the (Q, N) logits of an episode's queries, given the (M, D) vectors of its items."""
        return self.logits(vectors[episode.query])

    def logits(self, vectors: Tensor) -> Tensor:
        """Return the (R, N) logits of texts, given by their (R, D) vectors."""
        return self.head.joint_logits(vectors)

    def probabilities(self, vectors: Tensor) -> Tensor:
        """Return the (R, N) probabilities of texts, given by their (R, D) vectors."""
        return self.logits(vectors).softmax(-1)


class LinearModel(AdaptingModel):
    """A student's tower and its linear head."""

    def __init__(self, tower: nn.Module, head: LinearHead) -> None:
        super().__init__()
        self.tower = tower
        self.head: LinearHead = head


class KnownClassesLearner(Learner):
    """Classifies as the head has learned to: an episode of known classes has no support to adapt to.

    Args:
        head: The head.
        hyperparameters: Those of the teacher, by which nothing here is done.
    """

    entry = LEARNERS["finetune"]

    def __init__(self, head: LinearHead, hyperparameters: Hyperparameters) -> None:
        values = Hyperparameters(**hyperparameters.to_dict() | {"trainable_layers": 0})
        super().__init__(LinearModel(nn.Identity(), head).to(device()), values, LabelledTasks())

    def adapt(self, episode: LabelledEpisode, vectors: Tensor, *, training: bool = False) -> LinearClassifier:
        """Return the classifier; arguments as of `Learner.adapt`."""
        return LinearClassifier(self.model.head)


def linear_head(width: int, hyperparameters: Any, labels: tuple[str, ...] = ()) -> LinearHead:
    """Return a head of random weights for known classes; the hyperparameters say nothing to it."""
    return LinearHead(width, labels)

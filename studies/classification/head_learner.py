"""The head of a classifier without an encoder of its own: how students and exports adapt to new classes."""

from __future__ import annotations

from torch import nn

from studies.classification.head import Classifier, ClassifierHead
from studies.classification.tasks import classification_learner
from studies.config.hyperparameters import Hyperparameters
from studies.learners.base import Learner
from studies.model.device import device

# What cosines are divided by where the hyperparameters name nothing else.
TEMPERATURE = 0.1


def classifier_head(width: int, hyperparameters: Hyperparameters) -> ClassifierHead:
    """Return a head for a learner with these values, over vectors of a width; training classes are none of it."""
    return ClassifierHead(width, hyperparameters.temperature or TEMPERATURE, hyperparameters.entry)


def head_learner(head: ClassifierHead, learner: Hyperparameters) -> Learner:
    """Return a learner, on the device, that adapts a head as a teacher with these values does, but no encoder layer."""
    values = Hyperparameters(**learner.to_dict() | {"trainable_layers": 0})
    head.train_only(values.head)  # the student's inner loop moves what the teacher's moves
    return classification_learner(Classifier(nn.Identity(), head).to(device()), values)

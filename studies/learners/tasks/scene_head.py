"""The head of a recommender without an encoder of its own: how students and exports adapt to a scene."""

from __future__ import annotations

from torch import nn

from studies.config.hyperparameters import Hyperparameters
from studies.learners.base import Learner
from studies.learners.tasks.scene_tasks import scene_learner
from studies.model.device import device
from studies.model.recommender import Head, Recommender


def scene_head(width: int, hyperparameters: Hyperparameters, *, elsewhere: bool = False) -> Head:
    """Return a head of random weights for a learner with these values, over vectors of a width.

    Args:
        width: Size of a vector.
        hyperparameters: The learner's values.
        elsewhere: Whether scenes share items.
    """
    return Head(width, learned_rates=hyperparameters.entry.learns_inner_rates, elsewhere=elsewhere)


def head_learner(head: Head, learner: Hyperparameters) -> Learner:
    """Return a learner, on the device, that adapts a head as a teacher with these values does, but no encoder layer."""
    values = Hyperparameters(**learner.to_dict() | {"trainable_layers": 0})
    head.train_only(values.head)  # the student's inner loop moves what the teacher's moves
    return scene_learner(Recommender(nn.Identity(), head).to(device()), values)

"""Learners: one file each, behind the interface of `base.Learner`."""

from __future__ import annotations

from studies.hyperparameters import Hyperparameters, LearnerName
from studies.learners.anil import ANIL
from studies.learners.base import Learner
from studies.learners.fomaml import FOMAML
from studies.learners.protonet import ProtoNet
from studies.recommender import Recommender

LEARNERS: dict[LearnerName, type[Learner]] = {"protonet": ProtoNet, "anil": ANIL, "fomaml": FOMAML}


def build(model: Recommender, hyperparameters: Hyperparameters) -> Learner:
    """The learner that the hyperparameters name."""
    return LEARNERS[hyperparameters.learner](model, hyperparameters)


__all__ = ["LEARNERS", "Learner", "build"]

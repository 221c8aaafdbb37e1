"""Learners: one file each, behind the interface of `base.Learner`."""

from __future__ import annotations

from studies.config.hyperparameters import Hyperparameters, LearnerName
from studies.learners.anil import ANIL
from studies.learners.base import Learner
from studies.learners.finetune import FineTune
from studies.learners.fomaml import FOMAML
from studies.learners.maml import MAML
from studies.learners.metasgd import MetaSGD
from studies.learners.protonet import ProtoNet
from studies.learners.reptile import Reptile
from studies.model.recommender import Recommender

LEARNERS: dict[LearnerName, type[Learner]] = {
    "protonet": ProtoNet,
    "anil": ANIL,
    "fomaml": FOMAML,
    "maml": MAML,
    "metasgd": MetaSGD,
    "reptile": Reptile,
    "finetune": FineTune,
}


def build(
    model: Recommender, hyperparameters: Hyperparameters, *, at_once: int | None = None, together: int | None = None
) -> Learner:
    """The learner that the hyperparameters name.

    Args:
        model: what it trains.
        hyperparameters: the trial's values.
        at_once: most episodes of a meta-batch side by side; by their size if left out.
        together: most episodes of a meta-batch held together; all if left out.
    """
    return LEARNERS[hyperparameters.learner](model, hyperparameters, at_once=at_once, together=together)


__all__ = ["LEARNERS", "Learner", "build"]

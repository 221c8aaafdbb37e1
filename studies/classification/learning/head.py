"""The classifier that learners adapt: an item tower, and a head that compares texts with the classes of an episode.

    logit(text, class) = scale · cos(projection(text), weights of the class) + bias of the class

The classes' weights and biases belong to an episode and are no parameters: they start at the prototypes of its support
(`studies/classification/learning/classification_task.py`), in which the name of a class counts as some of its
examples where names are read. The head's parameters are what all episodes share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.config.hyperparameters import HeadPart
from studies.learners.registry import LearnerEntry
from studies.model.adapting_model import AdaptingModel, inner_rates

# Log of how many times inner_lr the weights and biases of the classes move at the start.
WEIGHT_RATE = 0.0
# Log of how many examples of a class its name counts as at the start.
LOG_NAME_WEIGHT = 0.0
# Log of how many examples the learned vector of a known class counts as at the start.
LOG_KNOWN_WEIGHT = 2.0
# Where ridge regression starts: its penalty, and its constant feature beside vectors of length 1.
RIDGE_PENALTY, RIDGE_INTERCEPT = 1.0, 0.3


@dataclass(frozen=True)
class JointClasses:
    """The training classes that plain fine-tuning classifies among.

    Attributes:
        codes: (C,) codes, ascending.
        start: (C, D) where their vectors start, such as the mean of each class's texts.
        names: Their names, where evaluation classifies among them too: they are known. () where it does among others.
    """

    codes: Tensor
    start: Tensor
    names: tuple[str, ...] = ()

    @classmethod
    def at_means(cls, vectors: Tensor, classes: Tensor) -> JointClasses:
        """Return the classes of some texts, each to start at the mean of its texts.

        Args:
            vectors: (R, D) vectors of the texts from the pretrained encoder.
            classes: (R,) code of each text's class.
        """
        codes, numbers = torch.unique(classes, return_inverse=True)
        return cls(codes, prototypes(vectors, numbers, len(codes)))


class ClassifierHead(nn.Module):
    """Brings the vectors of texts into the space where classes are compared, and scales their cosines.

    Args:
        width: Size D of an item vector.
        temperature: What cosines are divided by at the start.
        entry: The learner, whose needs decide what the head holds beside projection and scale.
        joint: The training classes, where the learner trains on all of them jointly.
        reads_names: Whether the name of a class is an example of it, with a weight that is learned.

    Attributes:
        labels: The names of the training classes, where these are known: where evaluation has no others.
        weighs_known: Whether the vector of a known class is an example of it beside the support, of a learned weight:
            for learners that take no gradient step from there.
    """

    scalars = ("log_name_weight", "log_known_weight", "log_scale", "weight_rate", "ridge_penalty", "ridge_intercept")

    class_codes: Tensor

    def __init__(
        self,
        width: int,
        temperature: float,
        entry: LearnerEntry,
        joint: JointClasses | None = None,
        *,
        reads_names: bool = False,
    ) -> None:
        super().__init__()
        self.labels = joint.names if joint is not None else ()
        # Added to the vector itself: it starts as the identity, and weight decay draws it back there.
        self.project = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.project.weight)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        if entry.learns_inner_rates:
            self.inner_rates = inner_rates(dict(self.named_parameters()))
        self.reads_names = reads_names
        if reads_names:
            self.log_name_weight = nn.Parameter(torch.tensor(LOG_NAME_WEIGHT))
        if entry.takes_gradient_steps:
            self.weight_rate = nn.Parameter(torch.tensor(WEIGHT_RATE))
        if entry.closed_form:
            # Its logarithm, so that it stays positive.
            self.ridge_penalty = nn.Parameter(torch.tensor(math.log(RIDGE_PENALTY)))
            self.ridge_intercept = nn.Parameter(torch.tensor(RIDGE_INTERCEPT))
        if joint is not None:
            self.register_buffer("class_codes", joint.codes, persistent=False)
            self.class_vectors = nn.Parameter(joint.start.clone())
        self.weighs_known = bool(self.labels) and not entry.takes_gradient_steps
        if self.weighs_known:
            self.log_known_weight = nn.Parameter(torch.tensor(LOG_KNOWN_WEIGHT))

    def train_only(self, part: HeadPart) -> None:
        """Freeze what a trial is not to train: the projection, where `part` is "scalars".

        "all" is the same as "projection". The vectors of the training classes always train: they are the layer that
        joint training classifies with.
        """
        self.project.requires_grad_(part != "scalars")
        if isinstance(rates := getattr(self, "inner_rates", None), nn.ParameterDict):
            rates["project/weight"].requires_grad_(part != "scalars")

    def forward(self, vectors: Tensor) -> Tensor:
        """Return (..., D) vectors of length 1 in the space of the classes."""
        return projected(vectors, self.project.weight)

    def joint_logits(self, vectors: Tensor) -> Tensor:
        """Return the (..., C) logits of (..., D) vectors over all training classes (Chen et al. 2019, Baseline++)."""
        logits: Tensor = self.log_scale.exp() * self(vectors) @ functional.normalize(self.class_vectors, dim=-1).mT
        return logits

    def known_weights(self, classes: Tensor) -> Tensor:
        """Return the (..., N, D) weights of known classes, given by their (..., N) codes: of length 1."""
        return functional.normalize(self.class_vectors[self.joint_labels(classes)], dim=-1)

    def joint_labels(self, classes: Tensor) -> Tensor:
        """Return the numbers of classes, given by their codes, among the training classes."""
        return torch.searchsorted(self.class_codes, classes)


def projected(vectors: Tensor, weight: Tensor) -> Tensor:
    """Return vectors of length 1 by a projection's weight, which is added to the identity: (..., R, D), (..., D, D)."""
    return functional.normalize(vectors + vectors @ weight.mT, dim=-1)


def prototypes(vectors: Tensor, labels: Tensor, classes: int, weights: Tensor | None = None) -> Tensor:
    """Return the mean of each class's vectors, brought to length 1 (Snell et al. 2017, eq. 1, for cosines).

    Args:
        vectors: (..., R, D) vectors.
        labels: (..., R) the class of each, in 0..N-1.
        classes: N.
        weights: (R,) how much each counts; all the same if left out.
    """
    members = functional.one_hot(labels, classes).to(vectors.dtype)
    if weights is not None:
        members = members * weights[:, None].to(vectors.dtype)
    return functional.normalize(members.mT @ vectors, dim=-1)


class Classifier(AdaptingModel):
    """An item tower and a head: all that a learner meta-trains."""

    def __init__(self, tower: nn.Module, head: ClassifierHead) -> None:
        super().__init__()
        self.tower = tower
        self.head: ClassifierHead = head

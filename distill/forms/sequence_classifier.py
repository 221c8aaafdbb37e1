"""The form of students of known classes: they are a `DistilBertForSequenceClassification`, with nothing left over.

That model computes classifier(relu(pre_classifier(h))) of the first token's last state h. A student of this form has a
linear head over h, and its last LayerNorm has neither gain nor shift: all components of h have mean 0 and h has the
length √W. So the vector of length 1 that everything else reads is h / √W, which leaves no division to the classifier,
and no component of h is below -√W, so that with a bias of √W the ReLU passes every text unchanged.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from distill.forms.form import StudentForm
from studies.classification.learning.head import ClassifierHead
from studies.classification.learning.linear_head import LinearHead
from studies.model.pooling import Pooling

# transformers is imported where a model is written: it takes seconds.
if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SequenceClassifierForm(StudentForm):
    """A DistilBERT whose first token's state is classified by a linear head."""

    pooling: ClassVar[Pooling | None] = "cls"
    encoder_prefix = "distilbert."
    projects = False
    knows_classes = True

    @classmethod
    def prepare(cls, model: PreTrainedModel) -> None:
        """Take gain and shift from the last LayerNorm, for good."""
        encoder: Any = model.transformer
        norm: nn.LayerNorm = encoder.layer[-1].output_layer_norm
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
        norm.requires_grad_(False)

    @classmethod
    def first_head(cls, teacher_head: ClassifierHead, projection: nn.Linear | None, vectors: Tensor) -> LinearHead:
        """Return a head that computes what the teacher's does, but for what brings projected vectors to length 1.

        In place of each vector's own length stands the mean of some texts.
        """
        with torch.no_grad():
            moved = teacher_head.project.weight
            vectors = vectors.to(moved)
            length = (vectors + vectors @ moved.T).norm(dim=1).mean()
            classes = nn.functional.normalize(teacher_head.class_vectors, dim=-1)
            weight = (classes + classes @ moved) / length
            if projection is not None:
                weight = weight @ projection.weight.to(weight)
            head = LinearHead(weight.shape[1], teacher_head.labels)
            head.classifier.weight.copy_(weight)
            nn.init.zeros_(head.classifier.bias)
            head.log_scale.copy_(teacher_head.log_scale)
        return head

    @classmethod
    def exported_model(cls, model: PreTrainedModel, head: LinearHead) -> PreTrainedModel:
        """Return encoder and head as one model, with the names of the classes in its configuration."""
        from transformers import DistilBertForSequenceClassification

        config: Any = copy.deepcopy(model.config)
        config.id2label = dict(enumerate(head.labels))
        config.label2id = {label: number for number, label in config.id2label.items()}
        config.problem_type = "single_label_classification"
        whole = DistilBertForSequenceClassification(config)
        width, passes = config.dim, math.sqrt(config.dim)
        whole.distilbert.load_state_dict(model.state_dict())
        with torch.no_grad():
            scale = head.log_scale.double().exp().cpu()
            weight = scale / passes * head.classifier.weight.double().cpu()
            whole.pre_classifier.weight.copy_(torch.eye(width))
            whole.pre_classifier.bias.fill_(passes)
            whole.classifier.weight.copy_(weight)
            whole.classifier.bias.copy_(scale * head.classifier.bias.double().cpu() - passes * weight.sum(1))
        return whole

    @classmethod
    def stored_shapes(cls, width: int, labels: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the head's layers."""
        return {
            "pre_classifier.weight": (width, width),
            "pre_classifier.bias": (width,),
            "classifier.weight": (labels, width),
            "classifier.bias": (labels,),
        }

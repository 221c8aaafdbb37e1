"""The form of students that adapt: their head is the teacher's, over a text's vector, pooled as the teacher's.

A task's row in `distill/export/tasks/registry.py` names the form of its students; training, export and serving ask it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from studies.model.pooling import Pooling

# For type checkers alone: transformers takes seconds to import.
if TYPE_CHECKING:
    from transformers import PreTrainedModel


class StudentForm:
    """How a student's head reads its encoder.

    Attributes:
        pooling: What of a text's token states becomes its vector; None for what the teacher pools.
        encoder_prefix: What precedes the names of the encoder's weights in model.safetensors.
        projects: Whether the head reads vectors of the teacher's width; else the encoder's own, whatever its width.
        knows_classes: Whether the head classifies among the classes that it was trained on, without a support.
    """

    pooling: ClassVar[Pooling | None] = None
    encoder_prefix: ClassVar[str] = ""
    projects: ClassVar[bool] = True
    knows_classes: ClassVar[bool] = False

    @classmethod
    def prepare(cls, model: PreTrainedModel) -> None:
        """Change an encoder that was initialised from its teacher's, before its first step."""

    @classmethod
    def first_head(cls, teacher_head: Any, projection: nn.Linear | None, vectors: Tensor) -> Any:
        """Return the head that a student starts from.

        Args:
            teacher_head: Stays as it is.
            projection: From a narrower encoder's vectors to those of the teacher's width.
            vectors: (R, D) vectors of some texts from the pretrained encoder.
        """
        return copy.deepcopy(teacher_head)

    @classmethod
    def exported_model(cls, model: PreTrainedModel, head: Any) -> PreTrainedModel:
        """Return the model whose weights and configuration transformers opens."""
        return model

    @classmethod
    def stored_shapes(cls, width: int, labels: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights that model.safetensors holds beside the encoder's."""
        return {}

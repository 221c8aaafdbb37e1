"""The values that one trial trains with, and which of them a learner has a use for.

Imports nothing heavy: the study file is validated against these names before torch is loaded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from studies.learners.registry import LEARNERS, LearnerEntry

HeadPart = Literal["scalars", "projection", "all"]
HEAD_PARTS: tuple[HeadPart, ...] = get_args(HeadPart)
NameUse = Literal["read", "ignore"]
NAME_USES: tuple[NameUse, ...] = get_args(NameUse)

# Hyperparameters that only mean something to learners with an inner loop of gradient steps.
INNER_LOOP = ("inner_lr", "inner_steps", "support_batch_size")
# Hyperparameters that only mean something where layers of the encoder train.
ENCODER = ("encoder_lr", "train_candidates", "dropout")


@dataclass(frozen=True)
class Hyperparameters:
    """One point of the search space; None stands for what the learner has no use for.

    Attributes:
        learner: The learner that adapts to a support.
        outer_lr: Peak learning rate of the meta-update (AdamW); the head's scalars train at ten times it.
        meta_batch_size: Episodes per meta-update.
        weight_decay: AdamW's decoupled weight decay, on all parameters but scalars.
        head: What of the head trains. In ranking: the weights and sharpnesses of the score's features; the projection
            of texts as well; or the priors of appeal too. Fewer overfit less where training scenes are few. In
            classification: the scale of cosines and the like; with "projection" or "all" the projection of texts too.
        trainable_layers: Top layers of the encoder that the outer loop trains; 0 freezes it. With all of them, position
            embeddings and their normalisation train too, the token table never.
        inner_lr: Step size of the inner loop.
        inner_steps: Gradient steps on the support, in the inner loop or in fine-tuning.
        support_batch_size: Interactions, or texts, of the support per inner step, in turn; all of a support that is
            not larger.
        encoder_lr: Peak learning rate of the encoder's layers; at the head's rates a pretrained layer forgets.
        train_candidates: Most candidates of a training episode, drawn anew at every update; evaluation ranks all.
        dropout: Rate of dropout in the encoder's layers in meta-updates; never while a scene is adapted to or scored.
        label_smoothing: Part of each label that all classes share; of classification alone.
        temperature: What cosines with the classes are divided by at the start; of classification alone.
        class_names: "read": the name of a class is an example of it, beside its texts, of a weight that is learned from
            1 on; "ignore" is for labels that say nothing, such as "c17". Of classification alone.
    """

    learner: str = "protonet"
    outer_lr: float = 5e-4
    meta_batch_size: int = 8
    weight_decay: float = 0.05
    head: HeadPart = "all"
    trainable_layers: int = 0
    inner_lr: float | None = None
    inner_steps: int | None = None
    support_batch_size: int | None = None
    encoder_lr: float | None = None
    train_candidates: int | None = None
    dropout: float | None = None
    label_smoothing: float | None = None
    temperature: float | None = None
    class_names: NameUse | None = None

    @property
    def entry(self) -> LearnerEntry:
        """What the registry says of the learner."""
        return LEARNERS[self.learner]

    @property
    def adapts_encoder(self) -> bool:
        """Whether the inner loop moves layers of the encoder."""
        return self.trainable_layers > 0 and self.entry.adapts_encoder

    @property
    def reads_names(self) -> bool:
        """Whether the names of the classes are examples of them."""
        return self.class_names == "read"

    def to_dict(self) -> dict[str, Any]:
        """Return the values that apply to this learner, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def applies(parameter: str, learner: str, trainable_layers: int) -> bool:
    """Return whether a learner has any use for a parameter: the search skips those it has none for."""
    if parameter in INNER_LOOP:
        return LEARNERS[learner].takes_gradient_steps
    return parameter not in ENCODER or trainable_layers > 0

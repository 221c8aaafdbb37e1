"""The values one trial trains with, and the ranges each may be searched in.

Imports nothing heavy: the study file is validated against these names before torch is loaded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

HeadPart = Literal["scalars", "projection", "all"]
HEAD_PARTS: tuple[HeadPart, ...] = get_args(HeadPart)
LearnerName = Literal["protonet", "anil", "fomaml", "maml", "metasgd", "reptile", "finetune"]
LEARNERS: tuple[LearnerName, ...] = get_args(LearnerName)

# Hyperparameters that only mean something to learners with an inner loop of gradient steps.
INNER_LOOP = ("inner_lr", "inner_steps", "support_batch_size")
# Hyperparameters that only mean something where layers of the encoder train.
ENCODER = ("encoder_lr", "train_candidates")
GRADIENT_LEARNERS: tuple[LearnerName, ...] = tuple(name for name in LEARNERS if name != "protonet")

# Learners whose inner loop moves the encoder's trainable layers as well.
ENCODER_ADAPTERS: tuple[LearnerName, ...] = ("fomaml", "maml", "reptile", "finetune")


@dataclass(frozen=True)
class Hyperparameters:
    """One point of the search space.

    Attributes:
        learner: which meta-learner adapts the recommender to a scene.
        outer_lr: peak learning rate of the meta-update (AdamW).
        meta_batch_size: episodes per meta-update.
        weight_decay: AdamW's decoupled weight decay.
        head: what of the head trains: the weights and sharpnesses of the score's terms; the projection of texts as
            well; or the priors of appeal too. Fewer overfit less where training scenes are few.
        trainable_layers: top transformer layers of the encoder that the outer loop trains; 0 freezes it.
        inner_lr: step size of the inner loop; None for a learner without one.
        inner_steps: gradient steps of the inner loop, or of fine-tuning; None for a learner without any.
        support_batch_size: interactions of the support per inner step, taken in turn; None for all of them.
        encoder_lr: peak learning rate of the encoder's layers; None where they are frozen.
        train_candidates: most candidates of a training episode, drawn anew each time; None for all of them.
    """

    learner: LearnerName = "protonet"
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

    @property
    def learned_rates(self) -> bool:
        """Whether the learner learns an inner rate for every weight."""
        return self.learner == "metasgd"

    def to_dict(self) -> dict[str, Any]:
        """The values that apply to this learner, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def moves_encoder(hyperparameters: Hyperparameters) -> bool:
    """Whether the inner loop moves layers of the encoder."""
    return hyperparameters.trainable_layers > 0 and hyperparameters.learner in ENCODER_ADAPTERS


def applies(parameter: str, learner: str, trainable_layers: int) -> bool:
    """Whether a learner has any use for a parameter: the search skips those it has none for."""
    if parameter in INNER_LOOP:
        return learner in GRADIENT_LEARNERS
    return parameter not in ENCODER or trainable_layers > 0

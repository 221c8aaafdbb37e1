"""The values that one distillation trial builds and trains its student with: a point of `[distill.space]`.

Imports nothing heavy; `distill/objective.py` runs what this describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from studies.config.distill_losses import LOSSES, default_settings, default_weights, loss_settings

Init = Literal["alternate", "first", "last"]
Vocabulary = Literal["catalogue", "full"]
# Fields whose key in the study file is another.
_KEYS = {"subword_dropout": "spelling"}


@dataclass(frozen=True)
class StudentHyperparameters:
    """One point of the distillation's search space; the defaults are a sound first trial to enqueue.

    Attributes:
        layers: Transformer layers of the student; at most the teacher's.
        width: Size of its hidden states, a multiple of that of an attention head; 0 for the teacher's. A narrower
            student ends in a learned projection to the teacher's width.
        feed_forward: Hidden units of its feed-forward networks, which take two thirds of a layer's time; those of the
            teacher's that write most are kept. 0 for the teacher's number, in proportion to the width.
        vocabulary: Whether it keeps the teacher's whole vocabulary, or the tokens of the training texts, all single
            characters and the special tokens (of WordPiece and Unigram; others are kept whole).
        subword_dropout: Rate at which tokens of half of a batch are split into smaller ones, so that the student learns
            to read words outside its vocabulary; only where that is trimmed.
        init: Layers of the teacher that it starts from: evenly spread, the first, or the last.
        teachers: How many of the winners it learns to rank from, best first, weighted by their validation recall.
        batch_size: Texts per step.
        lr: Peak learning rate (AdamW); the head starts trained and uses a tenth of it.
        weights: Weight of each loss (`studies/config/distill_losses.py`); 0 leaves it out.
        settings: What the losses take beside their batches, such as the temperature.
    """

    layers: int = 2
    width: int = 0
    feed_forward: int = 0
    vocabulary: Vocabulary = "catalogue"
    subword_dropout: float = 0.3
    init: Init = "alternate"
    teachers: int = 1
    batch_size: int = 64
    lr: float = 1e-3
    weights: Mapping[str, float] = field(default_factory=default_weights)
    settings: Mapping[str, float] = field(default_factory=default_settings)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudentHyperparameters:
        """Return the point with these values, by their names in the study file; others have their defaults.

        Raises:
            ValueError: A name is unknown.
        """
        defaults = cls().to_dict()
        if unknown := sorted(values.keys() - defaults.keys()):
            raise ValueError(f"unknown hyperparameter {unknown[0]!r}; accepted: {', '.join(defaults)}")
        all_values = defaults | dict(values)
        own = {name: all_values[key] for name, key in _own_keys().items()}
        weights = {name: all_values[name] for name in LOSSES}
        return cls(**own, weights=weights, settings={name: all_values[name] for name in loss_settings()})

    def to_dict(self) -> dict[str, Any]:
        """Return all values by their names in the study file, in the order of the search space."""
        own = {key: getattr(self, name) for name, key in _own_keys().items()}
        return own | dict(self.weights) | dict(self.settings)

    def labels_alone(self) -> StudentHyperparameters:
        """Return the same student without a teacher: only the losses that read labels have a weight."""
        weights = {name: 0.0 if loss.imitates else max(self.weights[name], 1.0) for name, loss in LOSSES.items()}
        return replace(self, weights=weights)

    def uses(self, reads: str) -> bool:
        """Return whether a loss that reads such batches has a weight above 0."""
        return any(loss.reads == reads and self.weights[name] > 0 for name, loss in LOSSES.items())


def _own_keys() -> dict[str, str]:
    names = [each.name for each in fields(StudentHyperparameters) if each.name not in ("weights", "settings")]
    return {name: _KEYS.get(name, name) for name in names}

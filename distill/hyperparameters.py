"""The values that one distillation trial builds and trains its student with: a point of `[distill.space]`.

Imports nothing heavy; `distill/objective.py` runs what this describes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Init = Literal["alternate", "first", "last"]
Vocabulary = Literal["catalogue", "full"]


@dataclass(frozen=True)
class StudentHyperparameters:
    """One point of the distillation's search space; the defaults are a sound first trial to enqueue.

    Attributes:
        layers: transformer layers of the student.
        width: size of its hidden states; 0 for the teacher's.
        vocabulary: whether it keeps the teacher's whole vocabulary, or what the catalogue needs.
        spelling: rate at which half of a batch's words are spelled by smaller pieces, for words that it lacks.
        init: which of the teacher's layers it starts from (`distill/student.py`).
        teachers: how many of the winners it ranks like, best first.
        batch_size: texts per step.
        lr: peak learning rate (AdamW).
        embedding: weight of the loss of that name (`distill/losses/`), as for the next five; 0 leaves it out.
        hidden: see `embedding`.
        relational: see `embedding`.
        listwise: see `embedding`.
        margin: see `embedding`.
        hard: weight of the teachers' own training loss: cross-entropy of what users really took.
        temperature: T that softens both rankings in the listwise loss.
    """

    layers: int = 2
    width: int = 0
    vocabulary: Vocabulary = "catalogue"
    spelling: float = 0.3
    init: Init = "alternate"
    teachers: int = 1
    batch_size: int = 64
    lr: float = 1e-3
    embedding: float = 10.0
    hidden: float = 0.0
    relational: float = 0.0
    listwise: float = 1.0
    margin: float = 0.0
    hard: float = 0.3
    temperature: float = 2.0

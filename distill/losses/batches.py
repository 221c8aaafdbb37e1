"""What the losses read: one typed batch for each kind, which `distill/trainer.py` makes at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from studies.config.distill_losses import Reads


@dataclass(frozen=True)
class VectorBatch:
    """Vectors of the same texts.

    Attributes:
        student: (B, D) of length 1.
        teacher: (B, D) of length 1.
    """

    reads: ClassVar[Reads] = "vectors"
    student: Tensor
    teacher: Tensor


@dataclass(frozen=True)
class StateBatch:
    """Hidden states of the same tokens after some layers.

    Attributes:
        student: (B, L, D) for each of the layers, projected to the teacher's width where the student is narrower.
        teacher: (B, L, D) for each of the teacher's layers that these stand for.
        mask: (B, L) true where there is a token.
    """

    reads: ClassVar[Reads] = "states"
    student: Sequence[Tensor]
    teacher: Sequence[Tensor]
    mask: Tensor


@dataclass(frozen=True)
class RankingBatch:
    """Scores of the same candidates for the same queries, after adapting to the same support.

    Attributes:
        student: (Q, C) scores.
        teacher: (Q, C) scores of the teachers; a constant added to a row changes nothing.
        relevant: (Q, C) bool, the candidates that the query's user took.
        excluded: (Q, C) bool, candidates that are not ranked for the query.
    """

    reads: ClassVar[Reads] = "rankings"
    student: Tensor
    teacher: Tensor
    relevant: Tensor
    excluded: Tensor


Batch = VectorBatch | StateBatch | RankingBatch

"""The interface of all objectives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from storage.errors import InputError
from studies.adaptation.corpus import Corpus
from studies.adaptation.encoding import AdaptingEncoder
from studies.adaptation.section import AdaptSection
from studies.config.definition import TeacherSection
from studies.model.encoder import Encoder


@dataclass(frozen=True)
class Training:
    """What an objective trains, on what.

    Attributes:
        encoder: The encoder as it was pretrained.
        adapting: The one in training.
        corpus: What it may read.
        section: `[teacher.adapt]`.
        teacher: `[teacher]`.
    """

    encoder: Encoder
    adapting: AdaptingEncoder
    corpus: Corpus
    section: AdaptSection
    teacher: TeacherSection


class Objective(ABC):
    """A loss on the encoder, computed on a batch that it draws itself.

    Attributes:
        training: What it trains.
        head: What trains beside the encoder and is dropped at the end; None where there is nothing.
    """

    head: nn.Module | None = None

    def __init__(self, training: Training) -> None:
        self.training = training

    @classmethod
    def check(cls, corpus: Corpus, section: AdaptSection) -> None:
        """Check before any work that the corpus has what the objective reads: texts, unless it says otherwise.

        Raises:
            InputError: It has not.
        """
        if (count := len(corpus.texts)) < 2:
            raise InputError(
                f"[teacher.adapt] finds {count} text{'s'[: count != 1]} that training may read, and needs two at "
                "least: give more items in training scenes, or leave the table out"
            )

    @abstractmethod
    def loss(self, rng: np.random.Generator) -> Tensor:
        """Return the loss, a scalar, of a batch that is a function of `rng` and of nothing else."""

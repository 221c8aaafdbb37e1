"""Texts of one training class are nearest among the texts of a batch.

Source: Khosla et al., "Supervised Contrastive Learning" (NeurIPS 2020), eq. 2.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from storage.errors import InputError
from studies.adaptation.corpus import Corpus, Labels
from studies.adaptation.objectives.base import Objective, Training
from studies.adaptation.section import AdaptSection, ClassificationAdapt
from studies.data.dataset import Ints


class SameClass(Objective):
    """A batch has some texts of each of some classes.

    Two texts of one class and one group, such as two sizes of a product, are neither pulled together nor pushed apart:
    they are never on both sides of an episode, and a group that is named like its class would teach nothing.
    """

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        section = cast("ClassificationAdapt", training.section)
        assert training.corpus.labels is not None, "checked before any work"
        self._rows, self._per_class = training.corpus.labels, section.per_class
        self._classes = [np.flatnonzero(self._rows.label == code) for code in _useful(self._rows).tolist()]

    @classmethod
    def check(cls, corpus: Corpus, section: AdaptSection) -> None:
        """Check that there are two classes with texts of two groups.

        Raises:
            InputError: There are not.
        """
        if corpus.labels is None or len(_useful(corpus.labels)) < 2:
            raise InputError(
                'teacher.adapt: "labels" needs two training classes, each with two texts of different groups; leave '
                "the objective out, or give more labelled texts"
            )

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Return the loss of a batch of texts."""
        rows, section = self.draw(rng), self.training.section
        positions = torch.from_numpy(self.training.corpus.positions(self._rows.item[rows]))
        vectors = self.training.adapting.vectors(positions)
        label, group = (torch.from_numpy(column[rows]).to(vectors.device) for column in self._columns())
        return same_class_loss(vectors, label, group, section.temperature)

    def draw(self, rng: np.random.Generator) -> Ints:
        """Return the rows of a batch."""
        size = self.training.section.batch_size
        count = min(max(2, size // self._per_class), len(self._classes))
        drawn = [self._classes[code] for code in rng.choice(len(self._classes), count, replace=False).tolist()]
        return np.concatenate([rng.choice(own, min(self._per_class, len(own)), replace=False) for own in drawn])

    def _columns(self) -> tuple[Ints, Ints]:
        return self._rows.label, self._rows.group


def same_class_loss(vectors: Tensor, label: Tensor, group: Tensor, temperature: float) -> Tensor:
    """Return the loss of a batch, a scalar; zero where no text has a partner.

    Args:
        vectors: (B, D) of length 1.
        label: (B,) codes of the classes.
        group: (B,) codes of the groups; -1 where a text has none.
        temperature: What cosines are divided by.
    """
    same = label[:, None] == label
    itself = torch.eye(len(label), dtype=torch.bool, device=label.device)
    ignored = itself | (same & (group[:, None] == group) & (group >= 0))
    partners = same & ~ignored
    logits = (vectors @ vectors.T / temperature).masked_fill(ignored, -torch.inf)
    apart = (logits - logits.logsumexp(1, keepdim=True)).masked_fill(~partners, 0)
    counts = partners.sum(1)
    return -(apart.sum(1) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)


def _useful(rows: Labels) -> Ints:
    """Return the classes with two texts of different groups; a text without a group is one of its own."""
    unit = np.where(rows.group < 0, -1 - rows.item, rows.group)
    classes, _ = np.unique(np.stack([rows.label, unit]), axis=1)
    codes, counts = np.unique(classes, return_counts=True)
    return codes[counts > 1]

"""What the problems of known classes share: the rows that training reads, and systems that are trained on them."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from studies.classification.episode import LabelledEpisode
from studies.classification.known.batches import evaluation_batch
from studies.classification.known.row_split import RowSplit
from studies.classification.learning.head import JointClasses
from studies.classification.problem import ClassificationProblem
from studies.classification.scoring.evaluate import Classifying
from studies.model.device import device


class TrainedClasses(ClassificationProblem):
    """A problem whose classes all have training rows: evaluation classifies among the classes of training."""

    split: RowSplit

    @cached_property
    def training_rows(self) -> LabelledEpisode:
        """Every training row as the query of one batch."""
        return evaluation_batch(self.data, self.split, "train").to(device())

    @cached_property
    def _training_classes(self) -> JointClasses:
        """The classes, which start at the means of their training texts' vectors from the frozen encoder."""
        batch = self.training_rows
        start = JointClasses.at_means(self.cache.pooled()[batch.items[batch.query]], batch.classes[batch.query_labels])
        return replace(start, names=tuple(self.data.labels[code] for code in start.codes.tolist()))


class Trained:
    """A system that is trained on the training rows, as if they were the support of what it classifies.

    Args:
        system: The system.
        training: The training rows as one batch.
        with_support: Whether an episode's support stays beside them.
    """

    def __init__(self, system: Classifying, training: LabelledEpisode, *, with_support: bool = False) -> None:
        self._system, self._training, self._with_support = system, training, with_support

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) logits."""
        return self._system.logits(with_rows(episode, self._training, with_support=self._with_support))


def with_rows(episode: LabelledEpisode, rows: LabelledEpisode, *, with_support: bool) -> LabelledEpisode:
    """Return an episode with other rows as its support, or beside it.

    Args:
        episode: The episode.
        rows: A batch of the same classes, whose queries are the rows.
        with_support: Whether the support stays.
    """
    items, places = torch.unique(torch.cat([rows.items[rows.query], episode.items]), return_inverse=True)
    support, own = places.split([len(rows.query), len(episode.items)])
    labels = rows.query_labels
    if with_support:
        support = torch.cat([support, own[episode.support]])
        labels = torch.cat([labels, episode.support_labels])
    return replace(
        episode,
        items=items,
        support=support,
        support_labels=labels,
        query=own[episode.query],
        names=own[episode.names],
    )

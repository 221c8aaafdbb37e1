"""The problem of a study of known classes: batches of texts over all classes, adapted to by training alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from studies.classification.episode import LabelledEpisode
from studies.classification.known.batches import evaluation_batch
from studies.classification.known.evaluate import evaluate_known, units
from studies.classification.known.row_split import RowSplit
from studies.classification.learning.head import JointClasses
from studies.classification.problem import ClassificationProblem
from studies.classification.scoring.baselines import Centroids, lookup
from studies.classification.scoring.evaluate import Classifying
from studies.episodes.split import SplitName
from studies.evaluation.metrics import Evaluation
from studies.model.device import device
from studies.progress import Progress


class KnownClassesProblem(ClassificationProblem):
    """Rows of one set of classes, divided; the classes' vectors that training learns classify in evaluation too."""

    split: RowSplit

    @cached_property
    def visible_items(self) -> Tensor:
        """(N,) the texts of training and those without a label, ascending; of the latter, none from after training."""
        data, until = self.data, self.split.until
        unlabelled = data.label < 0 if until is None else (data.label < 0) & (data.time < until)
        rows = np.concatenate([self.split.rows["train"], np.flatnonzero(unlabelled)])
        return torch.from_numpy(np.unique(data.text[rows])).to(device())

    def redrawn(self, split_name: SplitName, draws: int) -> list[LabelledEpisode]:
        """Return nothing: all rows of a split are scored already, there are no others to draw."""
        return []

    def scene_names(self, split_name: SplitName) -> set[str]:
        """Return the names of the classes, or of their parts, that recalls are recorded by."""
        (batch,) = self.episodes(split_name)
        return set().union(*units(batch, self.data.labels))

    def score(
        self,
        system: Classifying,
        episodes: Sequence[LabelledEpisode],
        dump: Any = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Return the metrics of any system on the one batch of a split."""
        (batch,) = episodes
        return evaluate_known(system, batch, self.data.labels, dump)

    def evaluate_reference(self, episodes: Sequence[LabelledEpisode]) -> Evaluation:
        """Return the metrics of the frozen encoder's centroids of the training texts."""
        centroids = Centroids(lookup(functional.normalize(self.cache.pooled(), dim=1)))
        return self.score(Trained(centroids, self._training_rows), episodes)

    @cached_property
    def _baselines(self) -> Mapping[str, Classifying]:
        return {name: Trained(system, self._training_rows) for name, system in super()._baselines.items()}

    @cached_property
    def _training_rows(self) -> LabelledEpisode:
        return evaluation_batch(self.data, self.split, "train").to(device())

    @cached_property
    def _training_classes(self) -> JointClasses:
        """The classes, which start at the means of their training texts' vectors from the frozen encoder."""
        batch = self._training_rows
        start = JointClasses.at_means(self.cache.pooled()[batch.items[batch.query]], batch.classes[batch.query_labels])
        return replace(start, names=tuple(self.data.labels[code] for code in start.codes.tolist()))


class Trained:
    """A system that is trained on the training rows, as if they were the support of what it classifies.

    Args:
        system: The system.
        training: The training rows as one batch.
    """

    def __init__(self, system: Classifying, training: LabelledEpisode) -> None:
        self._system, self._training = system, training

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) logits."""
        rows = self._training
        items, places = torch.unique(torch.cat([rows.items[rows.query], episode.items]), return_inverse=True)
        support, own = places.split([len(rows.query), len(episode.items)])
        labelled = replace(
            episode,
            items=items,
            support=support,
            support_labels=rows.query_labels,
            query=own[episode.query],
            names=own[episode.names],
        )
        return self._system.logits(labelled)

"""The problem of a study of known classes: batches of texts over all classes, adapted to by training alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch.nn import functional

from studies.classification.episode import LabelledEpisode
from studies.classification.known.evaluate import evaluate_known, units
from studies.classification.known.trained import Trained, TrainedClasses
from studies.classification.scoring.baselines import Centroids, build_baselines, lookup
from studies.classification.scoring.evaluate import Classifying
from studies.episodes.split import SplitName
from studies.evaluation.metrics import Evaluation
from studies.progress import Progress


class KnownClassesProblem(TrainedClasses):
    """Rows of one set of classes, divided; the classes' vectors that training learns classify in evaluation too."""

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
        return self.score(Trained(centroids, self.training_rows), episodes)

    @cached_property
    def _baselines(self) -> Mapping[str, Classifying]:
        weight = "balanced" if self.spec.protocol.sampling == "balanced" else None
        found = build_baselines(self.data, self.cache.pooled(), weight)
        return {name: Trained(system, self.training_rows) for name, system in found.items()}

"""The problem of known classes in scenes: the classes of training, adapted to in scenes that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from studies.classification.episode import LabelledEpisode
from studies.classification.known.trained import TrainedClasses
from studies.classification.problem import Adapted
from studies.classification.scenes.baselines import REFERENCE, build_scene_baselines
from studies.classification.scenes.split import SceneSplit
from studies.classification.scoring.evaluate import Classifying
from studies.config.hyperparameters import Hyperparameters
from studies.episodes.split import SplitName
from studies.evaluation.evaluate import ItemVectors
from studies.evaluation.figures import DataFacts
from studies.evaluation.metrics import Evaluation
from studies.learners.base import Learner
from studies.training.problem import PartFacts


class KnownScenesProblem(TrainedClasses):
    """Rows of one set of classes in scenes, divided; learners start at the classes' vectors that training learns."""

    split: SceneSplit

    @property
    def reference(self) -> str:
        """Logistic regression over the frozen encoder, trained on the training rows: it does not adapt."""
        return REFERENCE

    def scene_name(self, episode: LabelledEpisode) -> str:
        """Return the name of an episode's scene."""
        return self.data.scenes[episode.scene]

    def evaluate_reference(self, episodes: Sequence[LabelledEpisode]) -> Evaluation:
        """Return the metrics of that logistic regression on `episodes`."""
        return self.score(self._baselines[REFERENCE], episodes)

    def unadapted(self, learner: Learner, vectors: ItemVectors) -> Classifying:
        """Return a learner that classifies by what training learned of the classes, without a support."""
        return Adapted(learner, vectors, reads_support=False)

    def facts(self, split_name: SplitName) -> PartFacts:
        """Return what is known of a split's queries."""
        found = super().facts(split_name)
        return replace(found, left_out="most scenes have no more labelled rows, or none behind so many")

    def data_facts(self) -> DataFacts:
        """Return what is known of the data."""
        data, split = super().data_facts(), self.split
        scenes = {"scenes": sum(map(len, split.scenes.values()))}
        data = data.model_copy(update={"counts": data.counts | scenes})
        if split.until is None:
            return data
        first, last = (_day(int(time)) for time in np.quantile(self.data.time[self.data.label >= 0], [0, 1]))
        by = "opening" if split.by == "time" else "hash"
        return data.model_copy(update={"split_by": by, "first_day": first, "last_day": last})

    def _joint(self, hyperparameters: Hyperparameters) -> bool:
        """Return true: every learner starts at the known classes."""
        return True

    @cached_property
    def _baselines(self) -> Mapping[str, Classifying]:
        return build_scene_baselines(self.data, self.cache.pooled(), self.training_rows)


def _day(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).date().isoformat()

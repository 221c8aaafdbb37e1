"""The problem of a classification study: classes, episodes of a few labelled texts; see `studies.training.problem`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from studies.classification.data.dataset import LabelledTexts
from studies.classification.definition import ClassificationDefinition
from studies.classification.episode import LabelledEpisode
from studies.classification.learning.head import Classifier, ClassifierHead, JointClasses
from studies.classification.learning.tasks import classification_learner
from studies.classification.memory import trial_bytes
from studies.classification.plan import Plan
from studies.classification.scoring.baselines import FROZEN_CENTROIDS, Centroids, build_baselines, lookup
from studies.classification.scoring.evaluate import Classifying, evaluate
from studies.classification.scoring.metrics import Predictions
from studies.config.hyperparameters import Hyperparameters
from studies.episodes.audit import Finding
from studies.episodes.split import SplitName
from studies.evaluation.evaluate import ItemVectors
from studies.evaluation.figures import DataFacts
from studies.evaluation.metrics import Evaluation
from studies.learners.base import Learner
from studies.model.device import device
from studies.model.encoder import Encoder
from studies.progress import SILENT, Progress, ProgressReporter
from studies.training.problem import PartFacts, Problem


class ClassificationProblem(Problem):
    """Texts, classes, encoder, cached activations and episodes, common to all trials of a study."""

    spec: ClassificationDefinition
    data: LabelledTexts

    def __init__(
        self,
        spec: ClassificationDefinition,
        data: LabelledTexts,
        planned: Plan,
        encoder: Encoder,
        folder: Path,
        reporter: ProgressReporter = SILENT,
    ) -> None:
        super().__init__(spec, data, encoder, folder, reporter)
        self.plan = planned
        self.split = planned.split

    @cached_property
    def visible_items(self) -> Tensor:
        """(N,) texts that a student may read, without their labels, ascending."""
        return torch.from_numpy(self.plan.readable()).to(device())

    @property
    def reference(self) -> str:
        """The centroids of the frozen encoder."""
        return FROZEN_CENTROIDS

    @property
    def floor(self) -> Sequence[str]:
        """All baselines: none is trained on other classes."""
        return tuple(self.baselines("test"))

    def scene_name(self, episode: LabelledEpisode) -> str:
        """Return the name of an episode: each is a few-shot problem of its own."""
        return episode.name

    def trial_bytes(self, hyperparameters: Hyperparameters) -> int:
        """Return an upper bound of the memory that a trial's meta-update needs, in bytes."""
        at_once = self.spec.search.episodes_at_once
        return trial_bytes(hyperparameters, self.train, self.tokens.lengths, self.encoder, at_once)

    def evaluate(
        self,
        learner: Learner,
        episodes: Sequence[LabelledEpisode],
        *,
        tower: nn.Module | None = None,
        reporter: ProgressReporter = SILENT,
        dump: Any = None,
    ) -> Evaluation:
        """Return a learner's metrics on `episodes`."""
        with reporter.progress("encoding texts") as progress:
            vectors = ItemVectors(tower or learner.model.tower, episodes, self.tokens.lengths, progress)
        with reporter.progress("classifying the queries of episodes") as progress:
            return self.score(Adapted(learner, vectors), episodes, dump, progress)

    def evaluate_reference(self, episodes: Sequence[LabelledEpisode]) -> Evaluation:
        """Return the metrics of the frozen encoder's centroids on `episodes`."""
        return evaluate(Centroids(lookup(functional.normalize(self.cache.pooled(), dim=1))), episodes, self.scene_name)

    def baselines(self, split_name: SplitName) -> Mapping[str, Classifying]:
        """Return the baselines by name."""
        return self._baselines

    def adapted(self, learner: Learner, vectors: ItemVectors) -> Classifying:
        """Return a learner that adapts to each episode."""
        return Adapted(learner, vectors)

    def score(
        self,
        system: Classifying,
        episodes: Sequence[LabelledEpisode],
        dump: Any = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Return the metrics of any system on `episodes`; `progress` is called with (episodes done, in all)."""
        return evaluate(system, episodes, self.scene_name, progress, dump)

    def pool(self) -> Predictions:
        """Return an empty pool for the predictions of a system."""
        return Predictions(self.data.labels)

    def facts(self, split_name: SplitName) -> PartFacts:
        """Return what is known of a split's queries."""
        episodes = self.episodes(split_name)
        return PartFacts(
            queries=sum(len(episode.query) for episode in episodes),
            query_counts={"classes": len(self.split.classes[split_name])},
            scene_facts={},
            left_out="fewer than half of the classes have so many labelled texts",
        )

    def data_facts(self) -> DataFacts:
        """Return what is known of the data."""
        data = self.data
        counts = {
            "texts": data.distinct_texts,
            "labelled rows": int((data.label >= 0).sum()),
            "unlabelled rows": int((data.label < 0).sum()),
            "classes": len(data.labels),
        }
        return DataFacts(counts=counts, fingerprint=data.fingerprint)

    def head(self, hyperparameters: Hyperparameters) -> ClassifierHead:
        """Return a fresh head for a learner with these values."""
        entry = hyperparameters.entry
        joint = self._training_classes if self._joint(hyperparameters) else None
        temperature = hyperparameters.temperature
        assert temperature is not None, "the search space of classification holds a temperature"
        return ClassifierHead(self.encoder.width, temperature, entry, joint, reads_names=hyperparameters.reads_names)

    def _learner(self, tower: nn.Module, hyperparameters: Hyperparameters, micro_batch_size: int | None) -> Learner:
        head = self.head(hyperparameters)
        head.train_only(hyperparameters.head)
        return classification_learner(
            Classifier(tower, head).to(device()),
            hyperparameters,
            vmap_episodes=self.spec.search.episodes_at_once,
            micro_batch_size=micro_batch_size,
        )

    def _joint(self, hyperparameters: Hyperparameters) -> bool:
        """Return whether a learner's head holds vectors of the training classes."""
        return hyperparameters.entry.baseline

    @cached_property
    def _baselines(self) -> Mapping[str, Classifying]:
        return build_baselines(self.data, self.cache.pooled())

    @cached_property
    def _training_classes(self) -> JointClasses:
        """The training classes, which start at the means of their texts' vectors from the frozen encoder."""
        vectors, codes = self.cache.pooled(), self.split.classes["train"]
        means = [vectors[torch.from_numpy(self.data.text[self.data.label == code])].mean(0) for code in codes]
        return JointClasses(torch.from_numpy(codes), torch.stack(means))

    def _sample(self, split_name: SplitName, draw: int, progress: Progress) -> list[LabelledEpisode]:
        return self.plan.sample(split_name, draw, progress)

    def _nest(self, split_name: SplitName, progress: Progress) -> dict[int, list[LabelledEpisode]]:
        return self.plan.nested(split_name, self.spec.protocol.report_shots, progress)

    def _audit(
        self, split_name: SplitName, episodes: Sequence[LabelledEpisode], progress: Progress
    ) -> Sequence[Finding]:
        return self.plan.audit_episodes(split_name, episodes, progress)


class Adapted:
    """A learner as a system: it adapts to each episode's support, then classifies the queries.

    Args:
        learner: The learner to evaluate.
        vectors: Vectors of the episodes' texts.
        reads_support: Whether it reads the support; without it, known classes are where training left them.
    """

    def __init__(self, learner: Learner, vectors: ItemVectors, *, reads_support: bool = True) -> None:
        self._learner, self._vectors, self._reads_support = learner, vectors, reads_support

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) logits after adapting to the episode's support."""
        vectors = self._vectors.of(episode)
        if not self._reads_support:
            none = episode.support[:0]
            episode = replace(episode, support=none, support_labels=none)
        adapted = self._learner.adapt(episode, vectors)
        with torch.no_grad():
            logits: Tensor = adapted.predict(episode, vectors)
            return logits

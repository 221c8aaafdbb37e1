"""The problem of a study, common to its trials: texts, encoder, cached activations, and the episodes of its task.

A task is a `Problem` of its own: `studies.training.ranking` is that of ranking. Search, pruner, finalists, workers,
checkpoints and distillation know nothing else of a task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from storage.errors import InputError
from studies.config.definition import StudyDefinition
from studies.config.hyperparameters import Hyperparameters
from studies.episodes.audit import Finding, refuse_leaks
from studies.episodes.split import SplitName
from studies.evaluation.evaluate import ItemVectors
from studies.evaluation.figures import DataFacts, PooledFigures, SceneFacts
from studies.evaluation.metrics import Evaluation
from studies.learners.base import Learner
from studies.model import encoder as encoders
from studies.model.activation_cache import ActivationCache
from studies.model.bf16_speed import share_choice
from studies.model.device import device, free_memory
from studies.model.encoder import Encoder, Ragged
from studies.model.text_coverage import measure
from studies.model.towers import attention_for, build_tower
from studies.progress import SILENT, Progress, ProgressReporter
from studies.training.memory import fitting, refuse_too_large


class TaskData(Protocol):
    """What every task's data have: distinct texts, whose positions are item codes, and a digest of everything."""

    @property
    def texts(self) -> Sequence[str]:
        """Return the distinct texts."""

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the contents."""

    @property
    def size(self) -> str:
        """Return how much there is, in words."""


@dataclass(frozen=True)
class PartFacts:
    """What is known of a split that systems are scored on.

    Attributes:
        queries: Number of queries.
        query_counts: Of these, how many are of each kind.
        scene_facts: Each scene, by its name; none where scenes are draws.
        left_out: Why a size of the support may have no figures.
    """

    queries: int
    query_counts: dict[str, int]
    scene_facts: dict[str, SceneFacts]
    left_out: str


class Pool(Protocol):
    """Collects what a system predicts for the queries of many episodes."""

    def add(self, episode: Any, predicted: Any) -> None:
        """Add an episode and what was predicted for it, as `dump` of `Problem.score`."""

    def figures(self) -> PooledFigures:
        """Return the figures over all queries together."""


class Problem(ABC):
    """What the trials of a study share.

    Episodes are sampled with the first use, so a search never touches what is scored at the end.

    Attributes:
        reporter: Receives the progress of long steps.
        tokens: The texts, in the encoder's vocabulary.
        cache: The activations of the encoder's frozen layers.
        memory: Bytes for one worker, once `refuse_too_large` has asked for them.
    """

    def __init__(
        self,
        spec: StudyDefinition,
        data: TaskData,
        encoder: Encoder,
        folder: Path,
        reporter: ProgressReporter = SILENT,
    ) -> None:
        self.spec, self.data, self.encoder, self.reporter = spec, data, encoder, reporter
        with reporter.progress("splitting texts into tokens") as progress:
            length, prefix = spec.teacher.max_tokens, encoder.prefix
            tokens = encoders.tokenize(encoder.tokenizer, data.texts, length, progress, prefix=prefix)
        self.tokens: Ragged = tokens
        for loss in measure(encoder.tokenizer, tokens, length, prefix).warnings(encoder.name):
            reporter.note(f"warning: {loss}")
        share_choice(folder)  # before the first question: what is cached and trained depends on the answer
        self.cache = ActivationCache(folder, encoder, self.tokens)
        self.memory: int | None = None
        self._episodes: dict[SplitName, list[Any]] = {}
        self._by_shots: dict[SplitName, dict[int, list[Any]]] = {}

    @property
    def train(self) -> list[Any]:
        """Meta-training episodes, on the device."""
        return self.episodes("train")

    @property
    def validation(self) -> list[Any]:
        """Meta-validation episodes, on the device."""
        return self.episodes("validation")

    @property
    def test(self) -> list[Any]:
        """Meta-test episodes, on the device: for the one evaluation at the end."""
        return self.episodes("test")

    def episodes(self, split_name: SplitName) -> list[Any]:
        """Return a split's episodes, on the device; audited and kept from the first call on."""
        if split_name not in self._episodes:
            self._episodes[split_name] = self._audited(split_name, self._sampled(split_name))
        return self._episodes[split_name]

    def at_rung(self, rung: int) -> list[Any]:
        """Return the validation episodes that a search evaluates at a rung."""
        names = self.scene_names("validation")
        kept = self.spec.pruner.scenes_at(rung, names)
        if len(kept) == len(names):
            return self.validation
        return [episode for episode in self.validation if self.scene_name(episode) in kept]

    def redrawn(self, split_name: SplitName, draws: int) -> list[Any]:
        """Return a split's episodes with other supports and queries, `draws` times; none where there are no others."""
        drawn = [episode for draw in range(1, draws + 1) for episode in self._sampled(split_name, draw)]
        return self._audited(split_name, drawn)

    def by_shots(self, split_name: SplitName) -> dict[int, list[Any]]:
        """Return episodes with the same queries under each of the protocol's `report_shots` that the data allow."""
        if split_name not in self._by_shots:
            with self.reporter.progress(f"sampling meta-{split_name} episodes of other sizes") as progress:
                nested = self._nest(split_name, progress)
            self._by_shots[split_name] = {shots: self._audited(split_name, found) for shots, found in nested.items()}
        return self._by_shots[split_name]

    def scene_names(self, split_name: SplitName) -> set[str]:
        """Return the names of the split's scenes that have an episode: what recalls are recorded by."""
        return {self.scene_name(episode) for episode in self.episodes(split_name)}

    def learner(self, hyperparameters: Hyperparameters, micro_batch_size: int | None = None) -> Learner:
        """Return a freshly initialised learner; the same seed gives every trial the same start.

        Args:
            hyperparameters: The trial's values.
            micro_batch_size: Most episodes of a meta-batch held together; as many as fit if left out.
        """
        micro_batch_size = micro_batch_size or fitting(hyperparameters, self.trial_bytes, self.memory)
        torch.manual_seed(self.spec.search.seed)
        attention = attention_for(self.spec.teacher.attention, hyperparameters.learner)
        compiled = self.spec.teacher.compile and not hyperparameters.adapts_encoder
        layers, dropout = hyperparameters.trainable_layers, hyperparameters.dropout or 0.0
        tower = build_tower(self.encoder, self.cache, layers, attention, dropout=dropout, compiled=compiled)
        return self._learner(tower, hyperparameters, micro_batch_size)

    def _sampled(self, split_name: SplitName, draw: int = 0) -> list[Any]:
        with self.reporter.progress(f"sampling meta-{split_name} episodes") as progress:
            return self._sample(split_name, draw, progress)

    def _audited(self, split_name: SplitName, episodes: Sequence[Any]) -> list[Any]:
        with self.reporter.progress(f"auditing meta-{split_name} episodes") as progress:
            findings = self._audit(split_name, episodes, progress)
        refuse_leaks(findings)
        return [episode.to(device()) for episode in episodes]

    @property
    @abstractmethod
    def visible_items(self) -> Tensor:
        """(N,) items whose texts a student may learn from, ascending, on the device."""

    @property
    @abstractmethod
    def reference(self) -> str:
        """The name of the baseline that every system is compared with."""

    @property
    @abstractmethod
    def floor(self) -> Sequence[str]:
        """The names of the baselines over whose best a teacher's lift is counted."""

    @abstractmethod
    def scene_name(self, episode: Any) -> str:
        """Return the name of an episode's scene."""

    @abstractmethod
    def evaluate(
        self,
        learner: Learner,
        episodes: Sequence[Any],
        *,
        tower: nn.Module | None = None,
        reporter: ProgressReporter = SILENT,
        dump: Any = None,
    ) -> Evaluation:
        """Return a learner's metrics on `episodes`; each distinct text is encoded once.

        Args:
            learner: Adapts to each episode.
            episodes: The episodes to score.
            tower: Encodes the texts; the learner's own if left out.
            reporter: Shows how many texts are encoded and how many episodes are scored.
            dump: Called with each episode and what was predicted for it.
        """

    @abstractmethod
    def evaluate_reference(self, episodes: Sequence[Any]) -> Evaluation:
        """Return the metrics of the baseline `reference` on `episodes`."""

    @abstractmethod
    def baselines(self, split_name: SplitName) -> Mapping[str, Any]:
        """Return the baselines of a split by name, for `score`."""

    @abstractmethod
    def adapted(self, learner: Learner, vectors: ItemVectors) -> Any:
        """Return a learner that adapts to each episode, for `score`."""

    def unadapted(self, learner: Learner, vectors: ItemVectors) -> Any | None:
        """Return a learner that does not adapt, for `score`; None where there is no such thing."""
        return None

    @abstractmethod
    def score(self, system: Any, episodes: Sequence[Any], dump: Any = None) -> Evaluation:
        """Return the metrics of any system on `episodes`; `dump` is called with each and what was predicted for it."""

    def pool(self) -> Pool | None:
        """Return an empty pool for the predictions of a system; None where the task has no figures of this kind."""
        return None

    def writing(self, folder: Path, episodes: Sequence[Any]) -> AbstractContextManager[Any]:
        """Open a folder for what systems predict; its value's `run` returns the `dump` of a system, by name.

        Raises:
            InputError: The task writes no predictions, or the folder cannot be created.
        """
        raise InputError(f"predictions of a study of {self.spec.task} are not written; leave --trec out")

    @abstractmethod
    def facts(self, split_name: SplitName) -> PartFacts:
        """Return what is known of a split's scenes and queries."""

    @abstractmethod
    def data_facts(self) -> DataFacts:
        """Return what is known of the data; `source` is the study file's."""

    def refuse_too_large(self, workers: int) -> None:
        """Refuse a search whose largest trial does not fit into the memory of one of `workers` workers.

        Learners that are built afterwards hold as many episodes of a meta-batch together as fit.

        Raises:
            InputError: A trial needs more, one episode at a time; the message names its learner and what to lower.
        """
        self.memory = free_memory() // workers
        refuse_too_large(self.spec.search, self.trial_bytes, self.memory)

    @abstractmethod
    def trial_bytes(self, hyperparameters: Hyperparameters) -> int:
        """Return an upper bound of the memory that a trial's meta-update needs, in bytes."""

    @abstractmethod
    def head(self, hyperparameters: Hyperparameters) -> nn.Module:
        """Return a head of random weights for a learner with these values."""

    @abstractmethod
    def _learner(self, tower: nn.Module, hyperparameters: Hyperparameters, micro_batch_size: int | None) -> Learner:
        """Return a learner over a tower, with a fresh head."""

    @abstractmethod
    def _sample(self, split_name: SplitName, draw: int, progress: Progress) -> list[Any]:
        """Return the episodes of a split, in a fixed order."""

    @abstractmethod
    def _nest(self, split_name: SplitName, progress: Progress) -> dict[int, list[Any]]:
        """Return episodes with the same queries under supports of several sizes."""

    @abstractmethod
    def _audit(self, split_name: SplitName, episodes: Sequence[Any], progress: Progress) -> Sequence[Finding]:
        """Return what an audit of episodes for leaks finds."""

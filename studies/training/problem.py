"""The problem of a study, common to its trials: data, split, encoder, cached activations, episodes.

`prepare` reads data and texts once per process.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from storage.errors import InputError
from studies.config.definition import StudyDefinition
from studies.config.distill_section import DistillSection
from studies.config.hyperparameters import Hyperparameters
from studies.config.search_domains import Range, values_of
from studies.config.search_section import SearchSection
from studies.data.dataset import Dataset
from studies.episodes.audit import audit_data, audit_episodes, refuse_leaks
from studies.episodes.episode import Episode
from studies.episodes.sampler import EpisodeSampler
from studies.episodes.scene_texts import visible_items
from studies.episodes.split import Split, SplitName, split_scenes
from studies.episodes.tfidf import Lexicon
from studies.evaluation.evaluate import Adapted, ItemVectors, evaluate
from studies.evaluation.metrics import Evaluation
from studies.learners.base import Learner
from studies.learners.tasks.scene_tasks import scene_learner
from studies.model import encoder as encoders
from studies.model.activation_cache import ActivationCache
from studies.model.bf16_speed import share_choice
from studies.model.device import device, free_memory
from studies.model.encoder import Encoder, Ragged
from studies.model.recommender import Head, Recommender
from studies.model.towers import attention_for, build_tower
from studies.progress import SILENT, Progress, ProgressReporter
from studies.training.memory import refuse_too_large


class Problem:
    """Data, split, encoder, cached activations and episodes, common to all trials of a study.

    Episodes are sampled with the first use, so a search never touches a test scene.

    Attributes:
        reporter: Receives the progress of long steps.
    """

    def __init__(
        self,
        spec: StudyDefinition,
        data: Dataset,
        parts: Split,
        encoder: Encoder,
        folder: Path,
        reporter: ProgressReporter = SILENT,
    ) -> None:
        self.spec, self.data, self.split, self.encoder, self.reporter = spec, data, parts, encoder, reporter
        with reporter.progress("splitting texts into tokens") as progress:
            tokens = encoders.tokenize(encoder.tokenizer, data.texts, spec.teacher.max_tokens, progress)
        self.tokens: Ragged = tokens
        share_choice(folder)  # before the first question: what is cached and trained depends on the answer
        self.cache = ActivationCache(folder, encoder, self.tokens)
        with reporter.progress("counting the texts' words") as progress:
            self._sampler = EpisodeSampler(data, parts, spec.protocol, progress)
        self._episodes: dict[SplitName, list[Episode]] = {}
        self._by_shots: dict[SplitName, dict[int, list[Episode]]] = {}

    @property
    def train(self) -> list[Episode]:
        """Meta-training episodes, on the device."""
        return self.episodes("train")

    @property
    def validation(self) -> list[Episode]:
        """Meta-validation episodes, on the device."""
        return self.episodes("validation")

    @property
    def test(self) -> list[Episode]:
        """Meta-test episodes, on the device: for the one evaluation at the end."""
        return self.episodes("test")

    def episodes(self, split_name: SplitName) -> list[Episode]:
        """Return a split's episodes, on the device; audited and kept from the first call on."""
        if split_name not in self._episodes:
            self._episodes[split_name] = self._audited(split_name, self._sampled(split_name))
        return self._episodes[split_name]

    def redrawn(self, split_name: SplitName, draws: int) -> list[Episode]:
        """Return a split's episodes with other openings, hence other supports, and other query users, `draws` times."""
        drawn = [episode for draw in range(1, draws + 1) for episode in self._sampled(split_name, draw)]
        return self._audited(split_name, drawn)

    def by_shots(self, split_name: SplitName) -> dict[int, list[Episode]]:
        """Return episodes with the same queries under each of the protocol's `report_shots` that the data allow."""
        if split_name not in self._by_shots:
            with self.reporter.progress(f"sampling meta-{split_name} episodes of other sizes") as progress:
                nested = self._sampler.nested(split_name, self.spec.protocol.report_shots, progress)
            self._by_shots[split_name] = {shots: self._audited(split_name, found) for shots, found in nested.items()}
        return self._by_shots[split_name]

    def _sampled(self, split_name: SplitName, draw: int = 0) -> list[Episode]:
        with self.reporter.progress(f"sampling episodes of meta-{split_name} scenes") as progress:
            return self._sampler.sample(split_name, draw, progress)

    def _audited(self, split_name: SplitName, episodes: Sequence[Episode]) -> list[Episode]:
        with self.reporter.progress(f"auditing meta-{split_name} episodes") as progress:
            findings = audit_episodes(self.data, self.split, self.spec.protocol, split_name, episodes, progress)
        refuse_leaks(findings)
        return [episode.to(device()) for episode in episodes]

    @cached_property
    def visible_items(self) -> Tensor:
        """(N,) items whose texts training may read, ascending, on the device."""
        return torch.from_numpy(visible_items(self.data, self.split, self.spec.protocol)).to(device())

    @property
    def lexicon(self) -> Lexicon:
        """The words of these texts."""
        return self._sampler.lexicon

    def learner(self, hyperparameters: Hyperparameters, micro_batch_size: int | None = None) -> Learner:
        """Return a freshly initialised learner; the same seed gives every trial the same start.

        Args:
            hyperparameters: The trial's values.
            micro_batch_size: Most episodes of a meta-batch held together; all if left out.
        """
        torch.manual_seed(self.spec.search.seed)
        attention = attention_for(self.spec.teacher.attention, hyperparameters.learner)
        compiled = self.spec.teacher.compile and not hyperparameters.adapts_encoder
        layers, dropout = hyperparameters.trainable_layers, hyperparameters.dropout or 0.0
        tower = build_tower(self.encoder, self.cache, layers, attention, dropout=dropout, compiled=compiled)
        head = Head(self.encoder.width, learned_rates=hyperparameters.entry.learns_inner_rates)
        head.start_from(self.cache.pooled()[self.visible_items.cpu()])
        head.train_only(hyperparameters.head)
        model = Recommender(tower, head)
        return scene_learner(
            model.to(device()),
            hyperparameters,
            vmap_episodes=self.spec.search.episodes_at_once,
            micro_batch_size=micro_batch_size,
        )

    def refuse_too_large(self, workers: int) -> None:
        """Refuse a search whose largest trial does not fit into the memory of one of `workers` workers.

        Raises:
            InputError: A trial needs more; the message names its learner and what to lower.
        """
        available = free_memory() // workers
        refuse_too_large(self.spec.search, self.train, self.tokens.lengths, self.encoder, available)

    def evaluate(self, learner: Learner, episodes: Sequence[Episode], progress: Progress | None = None) -> Evaluation:
        """Return a learner's metrics on `episodes`."""
        vectors = ItemVectors(learner.model.tower, episodes, self.tokens.lengths)
        return evaluate(Adapted(learner, vectors), episodes, self.data.scenes, self.spec.protocol.k, progress)


def build_problem(spec: StudyDefinition, data: Dataset, cache: Path, *, reporter: ProgressReporter = SILENT) -> Problem:
    """Read a study's encoder, and cache the activations of its frozen layers unless they are cached already.

    Args:
        spec: The study.
        data: Its data.
        cache: Folder of the caches that all processes share.
        reporter: Receives the progress of long steps, now and whenever the problem takes long.

    Raises:
        InputError: Data, protocol or encoder cannot give a meaningful study.
    """
    parts = split_scenes(data, spec.protocol)
    refuse_leaks(audit_data(data, parts))
    encoder = encoders.load(spec.teacher)
    trainable = trainable_choices(spec.search)
    if max(trainable) > encoder.layers:
        raise InputError(
            f"trainable_layers goes up to {max(trainable)}, but the encoder {encoder.name!r} has {encoder.layers} "
            "layers; lower it in [search.space]"
        )
    _check_student(spec.distill, encoder)
    problem = Problem(spec, data, parts, encoder, cache, reporter)
    with reporter.progress("encoding texts") as progress:
        # 0 always: the zero-shot baseline and the student's targets read the frozen encoder's output.
        problem.cache.build({0, *trainable}, progress)
    return problem


def _check_student(section: DistillSection, encoder: Encoder) -> None:
    """Refuse, before anything is searched, students that the encoder cannot have.

    Raises:
        InputError: They are deeper or wider than it, or their width is no multiple of its attention heads'.
    """
    if (layers := max(values_of(section.space["layers"]))) > encoder.layers:
        raise InputError(
            f"distill.space.layers goes up to {layers}, but the encoder {encoder.name!r} has {encoder.layers} layers; "
            "a student cannot have more layers than its teacher"
        )
    head = encoder.width // int(encoder.config.num_attention_heads)
    for width in values_of(section.space["width"]):
        if width > encoder.width or width % head:
            raise InputError(
                f"distill.space.width = {width}: the encoder {encoder.name!r} is {encoder.width} wide, with attention "
                f"heads of {head}; give a multiple of {head} up to {encoder.width}, or 0 for all of it"
            )


def trainable_choices(search: SearchSection) -> list[int]:
    """Return every number of trainable layers that the search space holds."""
    domain = search.space["trainable_layers"]
    if isinstance(domain, Range):
        return list(range(int(domain.low), int(domain.high) + 1))
    return [int(value) for value in domain] if isinstance(domain, list) else [int(domain)]

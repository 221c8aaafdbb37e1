"""The problem of a ranking study: scenes, openings, candidates; see `studies.training.problem`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from studies.adaptation.corpus import log_corpus
from studies.config.hyperparameters import Hyperparameters
from studies.config.ranking import RankingDefinition
from studies.data.dataset import Dataset
from studies.episodes.audit import Finding, audit_data, audit_episodes, refuse_leaks
from studies.episodes.coverage import Reselect
from studies.episodes.elsewhere import shares_items
from studies.episodes.episode import Episode
from studies.episodes.sampler import EpisodeSampler
from studies.episodes.scene_texts import visible_items
from studies.episodes.split import Split, SplitName, split_scenes
from studies.episodes.tfidf import Lexicon
from studies.evaluation import trec
from studies.evaluation.baselines import KNN, POPULARITY, TEXT_FREE, SupportPopularity, build_baselines, item_knn
from studies.evaluation.evaluate import Adapted, ItemVectors, RunWriter, System, Unadapted, evaluate
from studies.evaluation.figures import DataFacts
from studies.evaluation.metrics import Evaluation
from studies.evaluation.mixtures import MIXTURES, Mix, Mixture, choose_mix
from studies.evaluation.scene_facts import count_queries, scene_facts
from studies.evaluation.trec import TrecDump
from studies.learners.base import Learner
from studies.learners.tasks.scene_head import scene_head
from studies.learners.tasks.scene_tasks import scene_learner
from studies.model.device import device
from studies.model.encoder import Encoder
from studies.model.recommender import Head, Recommender
from studies.progress import SILENT, Progress, ProgressReporter
from studies.training.encoder_setup import cache_activations, load_encoder
from studies.training.memory import Shape, largest, trial_bytes
from studies.training.problem import PartFacts, Problem


class RankingProblem(Problem):
    """Data, split, encoder, cached activations and episodes, common to all trials of a study."""

    spec: RankingDefinition
    data: Dataset

    def __init__(
        self,
        spec: RankingDefinition,
        data: Dataset,
        parts: Split,
        encoder: Encoder,
        folder: Path,
        reporter: ProgressReporter = SILENT,
        reselect: Reselect | None = None,
    ) -> None:
        super().__init__(spec, data, encoder, folder, reporter)
        self.split = parts
        self._largest: dict[int | None, Shape] = {}
        with reporter.progress("counting the texts' words") as progress:
            self._sampler = EpisodeSampler(data, parts, spec.protocol, progress, reselect=reselect)

    @cached_property
    def visible_items(self) -> Tensor:
        """(N,) items whose texts training may read, ascending, on the device."""
        return torch.from_numpy(visible_items(self.data, self.split, self.spec.protocol)).to(device())

    @cached_property
    def shares_items(self) -> bool:
        """Whether a candidate of one scene can have been taken in another."""
        return shares_items(self.data, self.spec.protocol)

    @property
    def lexicon(self) -> Lexicon:
        """The words of these texts."""
        return self._sampler.lexicon

    @property
    def reference(self) -> str:
        """Support popularity, which reads no text."""
        return POPULARITY

    @property
    def floor(self) -> Sequence[str]:
        """The baselines that read no text."""
        return TEXT_FREE

    def scene_name(self, episode: Episode) -> str:
        """Return the name of an episode's scene."""
        return self.data.scenes[episode.scene]

    def trial_bytes(self, hyperparameters: Hyperparameters) -> int:
        """Return an upper bound of the memory that a trial's meta-update needs, in bytes."""
        candidates = hyperparameters.train_candidates
        if candidates not in self._largest:
            self._largest[candidates] = largest(self.train, self.tokens.lengths, candidates)
        return trial_bytes(hyperparameters, self._largest[candidates], self.encoder, self.spec.search.episodes_at_once)

    def evaluate(
        self,
        learner: Learner,
        episodes: Sequence[Episode],
        *,
        tower: nn.Module | None = None,
        reporter: ProgressReporter = SILENT,
        dump: Any = None,
    ) -> Evaluation:
        """Return a learner's metrics on `episodes`."""
        with reporter.progress("encoding texts") as progress:
            vectors = ItemVectors(tower or learner.model.tower, episodes, self.tokens.lengths, progress)
        system, names, k = Adapted(learner, vectors), self.data.scenes, self.spec.protocol.k
        with reporter.progress("scoring episodes") as progress:
            return evaluate(system, episodes, names, k, progress, dump)

    def evaluate_reference(self, episodes: Sequence[Episode]) -> Evaluation:
        """Return the metrics of support popularity on `episodes`."""
        return self.score(SupportPopularity(), episodes)

    def baselines(self, split_name: SplitName) -> Mapping[str, System]:
        """Return the baselines of a split by name; they know the training scenes up to the split's period."""
        until, training = self.split.period[split_name][0], self.split.scenes["train"]
        found = build_baselines(
            self.data,
            training,
            until,
            self.cache.pooled(),
            products=self.spec.protocol.products,
            elsewhere=self.shares_items,
        )
        if not self.shares_items:
            return found
        mixed = {name: Mixture(name, found[KNN], mix) for name, mix in self._mixes.items()}
        return {**found, **mixed}

    @cached_property
    def _mixes(self) -> Mapping[str, Mix]:
        """How each mixture is best on validation, whatever is scored with it later."""
        knn = item_knn(self.data, self.split.scenes["train"], self.split.period["validation"][0])
        names, k = self.data.scenes, self.spec.protocol.k
        return {name: choose_mix(name, knn, self.validation, names, k) for name in MIXTURES}

    def adapted(self, learner: Learner, vectors: ItemVectors) -> System:
        """Return a learner that adapts to each episode."""
        return Adapted(learner, vectors)

    def unadapted(self, learner: Learner, vectors: ItemVectors) -> System:
        """Return a learner that ranks without adapting (direct transfer)."""
        return Unadapted(learner, vectors)

    def score(self, system: System, episodes: Sequence[Episode], dump: RunWriter | None = None) -> Evaluation:
        """Return the metrics of any system on `episodes`."""
        return evaluate(system, episodes, self.data.scenes, self.spec.protocol.k, dump=dump)

    def writing(self, folder: Path, episodes: Sequence[Episode]) -> AbstractContextManager[TrecDump]:
        """Open a folder for rankings in TREC formats."""
        return trec.dump(folder, self.data, episodes)

    def facts(self, split_name: SplitName) -> PartFacts:
        """Return what is known of a split's scenes and queries."""
        episodes, every_item = self.episodes(split_name), self.spec.protocol.candidates == "all"
        vectors = self.cache.pooled()
        return PartFacts(
            queries=sum(len(episode.users) for episode in episodes),
            query_counts=count_queries(episodes),
            scene_facts=scene_facts(self.data, self.split, split_name, episodes, vectors, every_item=every_item),
            left_out="fewer than half of the scenes see so many interactions and a later query in one window",
        )

    def data_facts(self) -> DataFacts:
        """Return what is known of the data."""
        data = self.data
        counts = {
            "interactions": len(data.time),
            "items": len(data.texts),
            "scenes": len(data.scenes),
            "users": data.users,
        }
        first, last = (datetime.fromtimestamp(int(data.time[row]), UTC).date().isoformat() for row in (0, -1))
        return DataFacts(
            split_by=self.split.by, counts=counts, first_day=first, last_day=last, fingerprint=data.fingerprint
        )

    def head(self, hyperparameters: Hyperparameters) -> Head:
        """Return a head of random weights for a learner with these values."""
        return scene_head(self.encoder.width, hyperparameters, elsewhere=self.shares_items)

    def _learner(self, tower: nn.Module, hyperparameters: Hyperparameters, micro_batch_size: int | None) -> Learner:
        head = self.head(hyperparameters)
        head.start_from(self.cache.pooled()[self.visible_items.cpu()])
        head.train_only(hyperparameters.head)
        model = Recommender(tower, head)
        return scene_learner(
            model.to(device()),
            hyperparameters,
            vmap_episodes=self.spec.search.episodes_at_once,
            micro_batch_size=micro_batch_size,
        )

    def _sample(self, split_name: SplitName, draw: int, progress: Progress) -> list[Episode]:
        return self._sampler.sample(split_name, draw, progress)

    def _nest(self, split_name: SplitName, progress: Progress) -> dict[int, list[Episode]]:
        return self._sampler.nested(split_name, self.spec.protocol.report_shots, progress)

    def _audit(self, split_name: SplitName, episodes: Sequence[Episode], progress: Progress) -> Sequence[Finding]:
        return audit_episodes(self.data, self.split, self.spec.protocol, split_name, episodes, progress)


def build_problem(
    spec: RankingDefinition,
    data: Dataset,
    cache: Path,
    *,
    reporter: ProgressReporter = SILENT,
    reselect: Reselect | None = None,
) -> RankingProblem:
    """Read or adapt a study's encoder, and cache the activations of its frozen layers unless they are cached already.

    Args:
        spec: The study.
        data: Its data.
        cache: Folder of the caches that all processes share.
        reporter: Receives the progress of long steps, now and whenever the problem takes long.
        reselect: Selects the scenes of a changed study, for messages that say what would help.

    Raises:
        InputError: Data, protocol or encoder cannot give a meaningful study.
    """
    parts = split_scenes(data, spec.protocol)
    refuse_leaks(audit_data(data, parts))
    encoder = load_encoder(spec, lambda: log_corpus(data, parts, spec.protocol), cache, reporter)
    problem = RankingProblem(spec, data, parts, encoder, cache, reporter, reselect)
    cache_activations(problem)
    return problem

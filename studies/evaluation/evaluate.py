"""Evaluates a system on episodes; learners, baselines and students all go through `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from studies.episodes.episode import Episode
from studies.evaluation.metrics import Evaluation, episode_metrics, rank, summarise
from studies.learners.base import Learner
from studies.model.device import device_settings
from studies.model.encoder import by_length
from studies.model.scene_encoding import AdaptedScene, episode_texts
from studies.progress import Progress

RunWriter = Callable[[Episode, Tensor], None]


class System(Protocol):
    """Anything that scores an episode's candidates for its queries, given its support."""

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) finite scores; they must not depend on `episode.relevant`."""


class Encodable(Protocol):
    """An episode of any task, as far as its items are encoded."""

    @property
    def items(self) -> Tensor:
        """Return the (M,) item codes."""

    @property
    def encoded(self) -> int:
        """Return how many of them, from the first, a model encodes."""


class ItemVectors:
    """The vectors of all items of some episodes, each encoded once.

    Args:
        tower: Encodes the items. If it has a `locked` table (`studies.model.towers`), items that are only in histories
            are looked up there.
        episodes: The episodes to score.
        lengths: (items,) token counts, to batch texts of similar length.
        progress: Called with (texts encoded, texts in all).
    """

    def __init__(
        self, tower: nn.Module, episodes: Sequence[Encodable], lengths: Tensor, progress: Progress | None = None
    ) -> None:
        self._locked: Tensor | None = getattr(tower, "locked", None)
        self._items = torch.unique(torch.cat([self._encoded_items(episode) for episode in episodes]))
        self._vectors = encode_items(tower, self._items, lengths, progress)

    def of(self, episode: Encodable) -> Tensor:
        """Return the (M, D) vectors of the episode's items."""
        encoded = self._vectors[torch.searchsorted(self._items, self._encoded_items(episode))]
        if self._locked is None:
            return encoded
        return torch.cat([encoded, self._locked[episode.items[episode.encoded :]]])

    def _encoded_items(self, episode: Encodable) -> Tensor:
        """Return the codes of the items that the tower encodes."""
        return episode.items if self._locked is None else episode.items[: episode.encoded]


class Adapted:
    """A learner as a system: it adapts to each episode's support, then scores.

    Args:
        learner: The learner to evaluate.
        vectors: Vectors of the episodes' items.
    """

    def __init__(self, learner: Learner, vectors: ItemVectors) -> None:
        self._learner, self._vectors = learner, vectors

    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) scores after adapting to the episode's support."""
        vectors = self._vectors.of(episode)
        adapted: AdaptedScene = self._learner.adapt(episode, vectors)
        with torch.no_grad():
            return adapted.predict(episode, vectors)


class Unadapted:
    """A meta-trained learner used without adapting (direct transfer), to measure what adapting adds.

    No weight changes, and the support's counts and neighbours are zero. A query user's own history is used in full,
    even where it contains their interactions of the support.

    Args:
        learner: The learner to evaluate.
        vectors: Vectors of the episodes' items.
    """

    def __init__(self, learner: Learner, vectors: ItemVectors) -> None:
        self._head, self._vectors = learner.model.head, vectors

    @torch.no_grad()
    def scores(self, episode: Episode) -> Tensor:
        """Return (Q, C) scores that do not depend on the support."""
        head, vectors, history = self._head, self._vectors.of(episode), episode.query_history
        encoding = head(vectors, episode.candidates, episode.support, episode_texts(episode), episode.held)
        bias = vectors.new_zeros(episode.candidates)
        scene = AdaptedScene(encoding, head.scene_preference, head.feature_weights, bias)
        visible = history.new_zeros(len(history), len(episode.support))
        return scene.scores(history, visible=visible, past=episode.query_share)


@torch.no_grad()
def encode_items(tower: nn.Module, items: Tensor, lengths: Tensor, progress: Progress | None = None) -> Tensor:
    """Return the (M, D) vectors of items, encoded in batches of similar length.

    Args:
        tower: Encodes them; it must be in evaluation mode, as towers are outside of training steps.
        items: (M,) item codes.
        lengths: (items,) token counts of all items.
        progress: Called with (texts encoded, texts in all).
    """
    vectors: Tensor | None = None
    done = 0
    for rows in by_length(lengths[items.cpu()], device_settings().encode_tokens):
        batch = tower(items[rows.to(items.device)])
        if vectors is None:
            vectors = batch.new_empty(len(items), batch.shape[1])
        vectors[rows.to(items.device)] = batch
        done += len(rows)
        if progress is not None:
            progress(done, len(items))
    assert vectors is not None, "no items to encode"
    return vectors


def evaluate(
    system: System,
    episodes: Sequence[Episode],
    scene_names: Sequence[str],
    k: int,
    progress: Progress | None = None,
    dump: RunWriter | None = None,
) -> Evaluation:
    """Return the metrics of a system on some episodes.

    Args:
        system: Scores the candidates.
        episodes: The episodes to score.
        scene_names: Name of each scene code.
        k: Cut-off of the metrics.
        progress: Called with (episodes done, episodes in all).
        dump: Called with each episode and its (Q, C) ranking, such as a run of `studies.evaluation.trec`.

    Raises:
        FloatingPointError: A score of the system is not finite.
    """
    results = []
    for number, episode in enumerate(episodes, start=1):
        scores = system.scores(episode)
        if not bool(scores.isfinite().all()):
            raise FloatingPointError(f"a score for scene {scene_names[episode.scene]!r} is not finite")
        order = rank(scores, episode)
        results.append((scene_names[episode.scene], episode_metrics(order, episode, k)))
        if dump is not None:
            dump(episode, order)
        if progress is not None:
            progress(number, len(episodes))
    return summarise(results)

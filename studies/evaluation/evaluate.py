"""Scores a system on episodes: the one piece of code that every learner, baseline and student is measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from studies.episodes.episode import Episode
from studies.evaluation.metrics import Evaluation, episode_metrics, rank, summarise
from studies.learners import Learner
from studies.model.encoder import by_length
from studies.model.recommender import AdaptedScene, texts_of
from studies.progress import Progress

RunWriter = Callable[[Episode, Tensor], None]


class System(Protocol):
    """Anything that ranks a scene's candidates for an episode's queries, having seen its support."""

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) finite scores; must not depend on `episode.relevant`."""


class ItemVectors:
    """The vectors of all items that some episodes touch, each encoded once.

    Args:
        tower: encodes them; what only histories hold is looked up where it has a locked side (`model/towers.py`).
        episodes: what will be scored.
        lengths: (items,) token counts, to encode texts of similar length together.
        progress: called with (texts encoded, texts in all).
    """

    def __init__(
        self, tower: nn.Module, episodes: Sequence[Episode], lengths: Tensor, progress: Progress | None = None
    ) -> None:
        self._locked: Tensor | None = getattr(tower, "locked", None)
        self._items = torch.unique(torch.cat([self._read(episode) for episode in episodes]))
        self._vectors = encode_items(tower, self._items, lengths, progress)

    def of(self, episode: Episode) -> Tensor:
        """(M, D) vectors of the episode's items."""
        read = self._vectors[torch.searchsorted(self._items, self._read(episode))]
        if self._locked is None:
            return read
        return torch.cat([read, self._locked[episode.items[episode.candidates :]]])

    def _read(self, episode: Episode) -> Tensor:
        """The items that the tower reads."""
        return episode.items if self._locked is None else episode.items[: episode.candidates]


class Adapted:
    """A learner as a system: adapts to every episode's support, then ranks.

    Args:
        learner: the learner to measure.
        vectors: of the items it will rank.
    """

    def __init__(self, learner: Learner, vectors: ItemVectors) -> None:
        self._learner, self._vectors = learner, vectors

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) after adapting to the episode's support."""
        adapted = self._learner.adapt(episode, self._vectors.of(episode))
        with torch.no_grad():
            return adapted.scores(episode.query_history)


class Unadapted:
    """A meta-trained learner used directly, without adapting (direct transfer): what the support is worth to it.

    The recommender as the outer loop left it; no weight moves, and the support's counts and neighbours are zero. A
    query user's own history stays as it is, even where it holds what they took in the support.

    Args:
        learner: the learner to measure.
        vectors: of the items it will rank.
    """

    def __init__(self, learner: Learner, vectors: ItemVectors) -> None:
        self._head, self._vectors = learner.model.head, vectors

    @torch.no_grad()
    def scores(self, episode: Episode) -> Tensor:
        """(Q, C), whatever the episode's support."""
        head, vectors, history = self._head, self._vectors.of(episode), episode.query_history
        reading = head(vectors, episode.candidates, episode.support, texts_of(episode))
        scene = AdaptedScene(reading, head.scene, head.gates, vectors.new_zeros(episode.candidates))
        return scene.scores(history, memory=history.new_zeros(len(history), len(episode.support)))


@torch.no_grad()
def encode_items(tower: nn.Module, items: Tensor, lengths: Tensor, progress: Progress | None = None) -> Tensor:
    """(M, D) vectors of `items`, in batches of similar length."""
    was_training = tower.training
    tower.eval()
    vectors: Tensor | None = None
    done = 0
    for rows in by_length(lengths[items.cpu()]):
        batch = tower(items[rows.to(items.device)])
        if vectors is None:
            vectors = batch.new_empty(len(items), batch.shape[1])
        vectors[rows.to(items.device)] = batch
        done += len(rows)
        if progress is not None:
            progress(done, len(items))
    tower.train(was_training)
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
    """Scores `system` on every episode.

    Args:
        system: ranks the candidates.
        episodes: what it is scored on.
        scene_names: name of each scene code.
        k: cut-off of the metrics.
        progress: called with (episodes done, episodes in all).
        dump: called with each episode and its (Q, C) ranking, such as a run of `studies.evaluation.trec`.

    Raises:
        FloatingPointError: the system gave a score that is not finite.
    """
    results = []
    for number, episode in enumerate(episodes, start=1):
        scores = system.scores(episode)
        if not bool(scores.isfinite().all()):
            raise FloatingPointError(f"a score for scene {scene_names[episode.scene]!r} is not finite")
        order = rank(scores, episode.excluded)
        results.append((scene_names[episode.scene], episode_metrics(order, episode, k)))
        if dump is not None:
            dump(episode, order)
        if progress is not None:
            progress(number, len(episodes))
    return summarise(results)

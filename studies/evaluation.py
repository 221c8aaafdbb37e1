"""Scores a system on episodes: the one piece of code that every learner, baseline and student is measured by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from studies.encoder import by_length
from studies.episodes import Episode
from studies.learners import Learner
from studies.metrics import METRICS, Evaluation, query_metrics, summarise, top_k

Progress = Callable[[int, int], None]


class System(Protocol):
    """Anything that ranks a scene's candidates for an episode's queries, having seen its support."""

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) finite scores; must not depend on `episode.relevant`."""


class Adapted:
    """A learner as a system: each distinct item of the episodes is encoded once, then every episode adapts.

    Args:
        learner: the learner to measure.
        episodes: what it will be measured on.
        lengths: (items,) token counts, to encode texts of similar length together.
        tower: encodes the items; the learner's own if left out.
    """

    def __init__(
        self, learner: Learner, episodes: Sequence[Episode], lengths: Tensor, tower: nn.Module | None = None
    ) -> None:
        self._learner = learner
        self._items = torch.unique(torch.cat([episode.items for episode in episodes]))
        self._vectors = encode_items(learner.model.tower if tower is None else tower, self._items, lengths)

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) after adapting to the episode's support."""
        vectors = self._vectors[torch.searchsorted(self._items, episode.items)]
        adapted = self._learner.adapt(episode, vectors)
        with torch.no_grad():
            return adapted.scores(episode.query_history)


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
) -> Evaluation:
    """Scores `system` on every episode.

    Raises:
        FloatingPointError: the system gave a score that is not finite.
    """
    results = []
    for number, episode in enumerate(episodes, start=1):
        scores = system.scores(episode)
        if not bool(scores.isfinite().all()):
            raise FloatingPointError(f"a score for scene {scene_names[episode.scene]!r} is not finite")
        metrics = query_metrics(scores, episode.relevant, k)
        means = {metric: float(metrics[metric].mean()) for metric in METRICS}
        shown = set(top_k(scores, k).flatten().tolist())
        results.append((scene_names[episode.scene], means, shown, episode.candidates))
        if progress is not None:
            progress(number, len(episodes))
    return summarise(results)

"""The one interface of all learners.

A learner meta-trains a `Recommender` (`meta_step`, the outer loop's gradient) so that, given a support, it adapts to
a scene (`adapt`, the inner loop); the adapted scene then ranks its candidates for anyone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from studies.episodes import Episode
from studies.hyperparameters import Hyperparameters
from studies.recommender import AdaptedScene, Recommender


class Learner(ABC):
    """A way to meta-train a recommender and to adapt it to a scene.

    Args:
        model: what is trained; several learners never share one.
        hyperparameters: the trial's values.
    """

    def __init__(self, model: Recommender, hyperparameters: Hyperparameters) -> None:
        self.model = model
        self.hyperparameters = hyperparameters

    @abstractmethod
    def adapt(self, episode: Episode, vectors: Tensor, *, training: bool = False) -> AdaptedScene:
        """Adapts to the episode's support; never looks at its query's relevance.

        Args:
            episode: supplies support, support users' histories and candidates.
            vectors: (M, D) vectors of `episode.items` from the unadapted tower.
            training: keep the graph that the outer loop differentiates; otherwise the result carries none.
        """

    def meta_step(self, episodes: Sequence[Episode]) -> float:
        """Adds the gradient of the mean query loss after adaptation to the model's `.grad`; returns that loss.

        Each distinct text of the meta-batch is encoded once.
        """
        items, positions = torch.unique(torch.cat([e.items for e in episodes]), return_inverse=True)
        table = self.model.tower(items)
        losses = []
        for episode, rows in zip(episodes, positions.split([len(e.items) for e in episodes]), strict=True):
            adapted = self.adapt(episode, table[rows], training=True)
            losses.append(ranking_loss(adapted.scores(episode.query_history), episode.relevant))
        loss = torch.stack(losses).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())


def ranking_loss(scores: Tensor, relevant: Tensor) -> Tensor:
    """Softmax cross-entropy over candidates, averaged over each query's relevant items, then over queries.

    Args:
        scores: (Q, C).
        relevant: (Q, C) bool, at least one per row.
    """
    target = relevant.to(scores.dtype)
    target = target / target.sum(1, keepdim=True)
    return -(target * scores.log_softmax(1)).sum(1).mean()

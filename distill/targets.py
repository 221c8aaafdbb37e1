"""What the teachers say, computed once and shared by all distillation trials: their vectors and their scores.

The texts of held-out scenes are never read here: what is scored at the end, the student has not seen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from studies.embeddings import Progress
from studies.evaluation import ItemVectors, encode_items
from studies.learners import Learner
from studies.objective import Problem


@dataclass(frozen=True)
class Teacher:
    """A winner of the study.

    Attributes:
        trial: number of its trial.
        recall: its validation recall@K.
        learner: the recommender, meta-trained.
    """

    trial: int
    recall: float
    learner: Learner


@dataclass(frozen=True)
class Targets:
    """What a student is to reproduce.

    Attributes:
        items: (N,) codes of the items that training may read, ascending.
        vectors: (N, D) the best teacher's vectors of these.
        scores: by training episode: (Q, C) the teachers' mean score after each adapted to the episode's support. A
            softmax of mean scores is one of mean log-softmaxes: the two differ by a constant per query.
    """

    items: Tensor
    vectors: Tensor
    scores: Mapping[int, Tensor]

    def of(self, items: Tensor) -> Tensor:
        """(M, D) target vectors of (M,) item codes, all of which must be in `items`."""
        return self.vectors[torch.searchsorted(self.items, items)]


def compute_targets(
    problem: Problem, teachers: Sequence[Teacher], episodes: Collection[int], progress: Progress | None = None
) -> Targets:
    """Asks the teachers.

    Args:
        problem: the study's data.
        teachers: the winners, best first.
        episodes: positions in `problem.train` whose scores are needed.
        progress: called with (episodes done, episodes in all), counted for every teacher.
    """
    items = problem.visible_items
    best: Tensor | None = None
    scores: dict[int, Tensor] = {}
    for number, teacher in enumerate(teachers):
        tower = teacher.learner.model.tower
        if best is None:
            best = encode_items(tower, items, problem.tokens.lengths)
        asked = ItemVectors(tower, [problem.train[index] for index in episodes], problem.tokens.lengths)
        for done, index in enumerate(sorted(episodes), start=1):
            episode = problem.train[index]
            adapted = teacher.learner.adapt(episode, asked.of(episode))
            with torch.no_grad():
                share = adapted.scores(episode.query_history) / len(teachers)
            scores[index] = scores[index] + share if index in scores else share
            if progress is not None:
                progress(number * len(episodes) + done, len(teachers) * len(episodes))
    assert best is not None, "no teachers"
    return Targets(items, best, scores)

"""The export of a recommender: the words that it was trained on, and the lists that it must give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.export.card import CardWords
from distill.export.fresh_process import Asked
from distill.export.layout import save_tensors
from distill.export.task_export import TaskExport
from distill.export.tasks.popularity import Popularity, total
from distill.export.tasks.registry import LEXICON, POPULARITY
from distill.student import Student
from studies.data.dataset import Dataset
from studies.episodes.episode import Episode
from studies.episodes.split import DAY
from studies.episodes.tfidf import Lexicon
from studies.evaluation.metrics import top_k
from studies.model.device import device, full_precision
from studies.model.scene_encoding import AdaptedScene
from studies.training.problem import Problem
from studies.training.ranking import RankingProblem

QUERIES, LIST = 8, 10
# Scores closer than this fraction of a list's span are a tie.
TIE = 1e-3
_SCRIPT = Path(__file__).with_name("served_lists.py")


class RankingExport(TaskExport):
    """The export of a recommender.

    Args:
        lexicon: The words of the texts that the student was trained on.
        popularity: What was taken in all scenes by the end of the log; None where scenes share no items.
    """

    answers = "lists"
    differs = "ranks otherwise"

    def __init__(self, lexicon: Lexicon, popularity: Popularity | None = None) -> None:
        self._lexicon, self._popularity = lexicon, popularity

    @classmethod
    def of(cls, problem: Problem) -> RankingExport:
        """Return the export of a study's students."""
        assert isinstance(problem, RankingProblem)
        return cls(problem.lexicon, _popularity(problem.data) if problem.shares_items else None)

    def write(self, student: Student, draft: Path) -> None:
        """Write the lexicon, and the popularity of items where scenes share them."""
        # Only the buckets that hold a word: a small part of all.
        used = torch.from_numpy(self._lexicon.frequency.nonzero()[0])
        frequency = torch.from_numpy(self._lexicon.frequency.astype(np.int64))[used]
        texts = torch.tensor([self._lexicon.texts])
        save_tensors({"texts": texts, "buckets": used, "frequency": frequency}, draft / LEXICON)
        if self._popularity is not None:
            known = {name: torch.from_numpy(array) for name, array in vars(self._popularity).items()}
            save_tensors(known, draft / POPULARITY)

    def scores(self, student: Student, episode: Episode, vectors: Tensor) -> Tensor:
        """Return (Q, C) scores of the candidates; -inf of those that are not ranked for a user."""
        with full_precision():
            adapted: AdaptedScene = student.learner.adapt(episode, vectors.to(device()))
            past = episode.query_share[:QUERIES]
            scores = adapted.scores(episode.query_history[:QUERIES], past=past).detach()
            return scores.masked_fill(episode.excluded[:QUERIES].to(scores.device), -math.inf)

    def answer(self, scores: Tensor) -> Tensor:
        """Return the (Q, k) lists of (Q, C) scores."""
        return top_k(scores, LIST)

    def same(self, scores: Tensor, answers: Tensor, *, exact: bool) -> Tensor:
        """Return (Q, k), for each place of a list whether the student has its item in its list, or in that place.

        With exact weights an item may only stand in the place of another of the same score.
        """
        own = top_k(scores, LIST)
        if not exact:
            return (answers[:, :, None] == own[:, None]).any(2)
        ranked = scores.isfinite()
        least = scores.masked_fill(~ranked, math.inf).amin(1)
        span = (scores.amax(1) - least)[:, None]
        theirs, ours = scores.gather(1, answers), scores.gather(1, own)
        return (theirs == ours) | ((theirs - ours).abs() <= TIE * span)

    def asked(self, problem: Problem, episodes: Sequence[Any]) -> Asked:
        """Return what asks `StudentRecommender` for the (Q, k) lists of each episode's scene."""
        assert isinstance(problem, RankingProblem)
        scenes = [as_texts(problem, episode) for episode in episodes]
        return Asked(_SCRIPT, {"scenes": scenes, "k": LIST})


def _popularity(data: Dataset) -> Popularity:
    """Return how often each item was taken in any scene, as of the day after the log's last."""
    days = data.time // DAY
    return Popularity.of(data.texts, total(data.item, days[-1] + 1 - days, len(data.texts)))


def as_texts(problem: RankingProblem, episode: Episode, queries: slice = slice(QUERIES)) -> dict[str, Any]:
    """Return an episode with some queries as `StudentRecommender.adapt` and `rank` take it.

    The order within a history is arbitrary.
    """
    texts = [problem.data.texts[item] for item in episode.items.tolist()]

    def listed(counts: Tensor) -> list[list[str]]:
        return [[texts[place] for place, n in enumerate(row) for _ in range(int(n))] for row in counts.tolist()]

    def histories(counts: Tensor, past: Tensor) -> list[list[str]]:
        last = counts.new_zeros(len(counts), len(texts)).index_copy_(1, episode.held, counts)
        # What the student counts or leaves out, but does not encode, lies further back.
        earlier = (past - last[:, : past.shape[1]]).clamp(min=0)
        return [[*old, *new] for old, new in zip(listed(earlier), listed(last), strict=True)]

    candidates, elsewhere = episode.items[: episode.candidates].cpu().numpy(), bool(episode.elsewhere.shape[1])
    return {
        "candidates": texts[: episode.candidates],
        "support": list(
            zip(histories(episode.support_history, episode.support_past), episode.support.tolist(), strict=True)
        ),
        "products": problem.data.products[candidates].tolist(),
        "histories": histories(
            episode.query_history[queries],
            episode.query_past[queries] if elsewhere else episode.excluded[queries].int(),
        ),
        "popularity": episode.elsewhere.tolist() if elsewhere else None,
    }


CARD = CardWords(
    tag="recommendation",
    head="adapts from a handful of interactions to a new scene and\nranks its items",
    teachers="recommenders",
    use="Adapting to a scene and ranking its items",
    example="""\
from distill.inference import StudentRecommender

student = StudentRecommender.load("path/to/this/folder")
scene = student.adapt(candidates=["whole milk", "oat drink"], support=[(["corn flakes"], 0)])
ranking = scene.rank([["muesli"]], k=1)
""",
    answers="top-10 lists shared with the student",
    scored="{scenes} scenes that neither the search nor the distillation saw, each adapted from {shots} interactions; "
    "averaged over queries, then scenes, with 95 % bootstrap intervals over scenes.",
    metrics={"ndcg": "NDCG@{k}", "hit_rate": "hit rate@{k}"},
)

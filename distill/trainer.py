"""Trains a student towards its targets: texts first, then rankings; resumable at any step.

Embedding matching comes first because it needs no episodes and does most of the work; ranking as the adapted teachers
do comes after, with embedding matching still beside it. As in `studies/training.py`, everything random is a function
of (seed, step).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from distill.losses import embedding_loss, listwise_kl
from distill.student import Student
from distill.targets import Targets
from studies.device import device
from studies.encoder import by_length
from studies.episodes import Episode
from studies.learners.scene_task import ranking_loss
from studies.spec import DistillSection
from studies.training import ScheduledAdamW, load_weights

TEXTS = 64
QUERIES = 8
# Padded tokens per pass: with texts of similar length together, a third less of the work is padding.
TOKENS = 2048
WEIGHT_DECAY = 0.01


class Distiller:
    """Runs a distillation's steps; the optimizer is the teachers' (AdamW, warm-up, cosine decay, clipping).

    The student adapts as its teachers did: the inner loop moves the head alone, while the outer gradient reaches the
    encoder through the vectors that the head reads.

    Args:
        student: trained in place.
        targets: what to reproduce; must hold the scores of every episode that `rank_episodes` names.
        episodes: meta-training episodes.
        section: numbers of steps, and the seed of what each step reads.
    """

    def __init__(
        self, student: Student, targets: Targets, episodes: Sequence[Episode], section: DistillSection
    ) -> None:
        self.student = student
        self._targets, self._episodes, self._section = targets, episodes, section
        self._model = student.model
        if device().type == "cpu":
            # On short texts in bf16, SDPA's backward pass takes three times as long there (measured).
            student.tower.model.set_attn_implementation("eager")
        steps = section.embed_steps + section.rank_steps
        self._optimizer = ScheduledAdamW(self._model, student.hyperparameters.lr, WEIGHT_DECAY, steps)

    @property
    def step(self) -> int:
        """Steps done, of both phases together."""
        return self._optimizer.step

    def train_to(self, step: int, progress: Callable[[int], None] | None = None) -> None:
        """Trains until `step` steps are done.

        Args:
            step: where to stop.
            progress: told of the number of steps done, after each.

        Raises:
            Diverged: the loss or its gradient is not finite.
        """
        while self.step < step:
            self._optimizer.update(self._backward)
            if progress is not None:
                progress(self.step)

    def _backward(self) -> float:
        loss = self._embed() if self.step < self._section.embed_steps else self._rank()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _embed(self) -> Tensor:
        """Embedding loss of a batch of texts."""
        targets = self._targets
        rng = np.random.default_rng([self._section.seed, self.step])
        rows = rng.choice(len(targets.items), min(TEXTS, len(targets.items)), replace=False)
        batch = torch.from_numpy(rows).to(targets.items.device)
        return embedding_loss(self._encode(targets.items[batch]), targets.vectors[batch])

    def _rank(self) -> Tensor:
        """All three losses on a few queries of one episode; each distinct text is encoded once."""
        index, rng = draw(self._section.seed, self.step, len(self._episodes))
        whole = self._episodes[index]
        size = min(QUERIES, len(whole.relevant))
        queries = torch.from_numpy(rng.choice(len(whole.relevant), size, replace=False)).to(whole.items.device)
        episode = asking(whole, queries)
        vectors = self._encode(episode.items)
        scores = self.student.learner.adapt(episode, vectors, training=True).scores(episode.query_history)
        values = self.student.hyperparameters
        return (
            values.embed_weight * embedding_loss(vectors, self._targets.of(episode.items))
            + values.soft_weight * listwise_kl(self._targets.scores[index][queries], scores, values.temperature)
            + values.hard_weight * ranking_loss(scores, episode.relevant, episode.excluded)
        )

    def _encode(self, items: Tensor) -> Tensor:
        """(M, D) vectors of (M,) items, with their graph."""
        tower = self.student.tower
        batches = [rows.to(items.device) for rows in by_length(tower.tokens.lengths[items.cpu()], TOKENS)]
        vectors = torch.cat([tower(items[rows]) for rows in batches])
        return vectors[torch.cat(batches).argsort()]

    def state(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint: all weights and the optimizer's moments."""
        return self._optimizer.state()

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Continues from what `state` gave after `step` steps."""
        load_weights(self._model, tensors)
        self._optimizer.restore(tensors, step)


def rank_episodes(section: DistillSection, count: int) -> set[int]:
    """The episodes, out of `count`, that a distillation's ranking steps will read."""
    first = section.embed_steps
    return {draw(section.seed, step, count)[0] for step in range(first, first + section.rank_steps)}


def draw(seed: int, step: int, count: int) -> tuple[int, np.random.Generator]:
    """The episode of a ranking step, out of `count`, and the generator for what else is random in the step."""
    rng = np.random.default_rng([seed, step])
    return int(rng.integers(count)), rng


def asking(episode: Episode, queries: Tensor) -> Episode:
    """The episode with some of its queries and only the items that these, the support and the scene need.

    Args:
        episode: the whole.
        queries: (R,) rows of its queries.
    """
    read = episode.support_history.any(0) | episode.query_history[queries].any(0)
    read[: episode.candidates] = True
    needed = read.nonzero().squeeze(1)
    return replace(
        episode,
        items=episode.items[needed],
        support_history=episode.support_history[:, needed],
        query_history=episode.query_history[queries][:, needed],
        relevant=episode.relevant[queries],
        excluded=episode.excluded[queries],
        users=episode.users[queries],
    )

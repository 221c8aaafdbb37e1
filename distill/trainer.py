"""Trains a student to match its targets, on texts first and then on rankings; resumable at any step.

Matching vectors comes first because it needs no episodes and does most of the work. The ranking steps come after, with
the texts still beside them. As in `studies/training/outer_loop.py`, everything random is a function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.episode_draws import Draw, draw_ranking
from distill.losses.batches import Batch, RankingBatch, StateBatch, VectorBatch
from distill.losses.registry import weighted_sum
from distill.student import Student, TokenTower
from distill.targets import Targets
from distill.teacher_states import TeacherStates
from distill.vocabulary import SubwordDropout, can_trim
from studies.config.distill_losses import LOSSES
from studies.config.distill_section import DistillSection
from studies.model.device import device_settings
from studies.model.encoder import by_length
from studies.training.outer_loop import ScheduledAdamW, load_weights

WEIGHT_DECAY = 0.01
# The head is the trained teacher's, while the encoder has lost most of its layers: the head's rate over the encoder's.
HEAD_RATE = 0.1
# Keeps the draws of ranking steps apart from those of steps on texts.
_RANKING = 1


class Distiller:
    """Runs a distillation's steps; the optimizer is the teachers' (AdamW, warm-up, cosine decay, clipping).

    The student adapts as its teachers do: the inner loop moves the head alone, while the outer gradient reaches the
    encoder through the candidates' vectors. A text that only histories hold is read from the targets, as in
    `studies/model/towers.py`: a seventh of the work.

    Args:
        student: The student; trained in place.
        targets: What to match, with the scores of every episode that `rank_episodes` names.
        episodes: Meta-training episodes.
        section: Numbers of steps, and the seed of what each step reads.
        states: The teacher's hidden states; None where no loss reads them.
        draw: Draws from an episode what a step reads.
    """

    def __init__(
        self,
        student: Student,
        targets: Targets,
        episodes: Sequence[Any],
        section: DistillSection,
        states: TeacherStates | None = None,
        draw: Draw = draw_ranking,
    ) -> None:
        self.student, self._draw = student, draw
        self._targets, self._episodes, self._section, self._states = targets, episodes, section, states
        self._model = student.model
        values = student.hyperparameters
        trimmed = values.vocabulary == "catalogue" and can_trim(student.tokenizer)
        drops = trimmed and values.subword_dropout > 0
        self._dropout = SubwordDropout(student.tokenizer, student.max_tokens) if drops else None
        student.tower.model.set_attn_implementation(device_settings().attention)
        self._optimizer = ScheduledAdamW(
            self._model, HEAD_RATE * values.lr, WEIGHT_DECAY, section.steps, encoder_lr=values.lr
        )

    @property
    def step(self) -> int:
        """Steps done, of both phases together."""
        return self._optimizer.step

    def train_to(self, step: int, progress: Callable[[int], None] | None = None) -> None:
        """Train until `step` steps are done.

        Args:
            step: Where to stop.
            progress: Called with the number of steps done, after each.

        Raises:
            Diverged: The loss or its gradient is not finite.
        """
        self._optimizer.update_to(step, self._backward, progress)

    def _backward(self) -> float:
        loss = self.text_loss() if self.step < self._section.embed_steps else self.ranking_loss()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def text_loss(self) -> Tensor:
        """Return the weighted losses of the current step's texts, a scalar."""
        targets, values = self._targets, self.student.hyperparameters
        rng = np.random.default_rng([self._section.seed, self.step])
        rows = rng.choice(len(targets.items), min(values.batch_size, len(targets.items)), replace=False)
        batch = torch.from_numpy(rows).to(targets.items.device)
        items, tower = targets.items[batch], self.student.tower
        split = len(items) // 2 if self._dropout else 0
        states: StateBatch | None = None
        if self._states is None:
            vectors = encode(tower, items[split:])
        else:
            read = tower.read(items[split:], states=True)
            # A narrow student's states are compared at the teacher's width.
            ours = [read.states[layer] for layer in self._states.layers]
            ours = ours if tower.widening is None else [tower.widening(layer) for layer in ours]
            vectors, states = read.vectors, StateBatch(ours, self._states.of(items[split:]), read.mask)
        if self._dropout:
            texts = self._dropout.split(tower.tokens.rows(items[:split]), values.subword_dropout, rng)
            vectors = torch.cat([encode(tower.over(texts), torch.arange(split)), vectors])
        return self._total(VectorBatch(tower.beside_teacher(vectors), targets.vectors[batch]), states)

    def ranking_loss(self) -> Tensor:
        """Return the weighted losses of the current step's queries, a scalar; each distinct text is encoded once."""
        index, rng = draw_episode(self._section.seed, self.step - self._section.embed_steps, len(self._episodes))
        values, (episode, queries, kept) = self.student.hyperparameters, self._draw(self._episodes[index], rng)
        items, count = episode.items, episode.encoded
        # Targets stand in for the vectors of histories only where the student's vectors are drawn to them.
        aligned = any(loss.aligns and values.weights[name] > 0 for name, loss in LOSSES.items())
        own, wanted = count if aligned else len(items), self._targets.of(items)
        read = encode(self.student.tower, items[:own])
        vectors = torch.cat([read, wanted[own:]]) if own < len(items) else read
        scores = self.student.learner.adapt(episode, vectors, training=True).predict(episode, vectors)
        imitates = any(loss.imitates and values.weights[name] > 0 for name, loss in LOSSES.items())
        teachers = self._targets.ranking(index, values.teachers)[queries][:, kept] if imitates else scores.detach()
        ranking = RankingBatch(scores, teachers, episode.relevant, episode.excluded)
        return self._total(VectorBatch(self.student.tower.beside_teacher(read), wanted[:own]), ranking)

    def _total(self, vectors: VectorBatch, more: Batch | None) -> Tensor:
        values = self.student.hyperparameters
        total = weighted_sum([vectors, more] if more else [vectors], values)
        if total is not None and values.uses("vectors"):
            return total
        # The optimizer passes over weights without a gradient: with one of zero they decay as in every other step.
        zero = 0 * vectors.student.sum()
        return zero if total is None else zero + total

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint: all weights and the optimizer's moments."""
        return self._optimizer.state()

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Continue from what `state` returned after `step` steps."""
        load_weights(self._model, tensors)
        self._optimizer.restore(tensors, step)


def encode(tower: TokenTower, items: Tensor) -> Tensor:
    """Return (M, D) vectors of (M,) items, with their graph, encoded in groups of similar length."""
    lengths = tower.tokens.lengths[items.cpu()]
    batches = [rows.to(items.device) for rows in by_length(lengths, device_settings().distil_tokens)]
    vectors = torch.cat([tower(items[rows]) for rows in batches])
    return vectors[torch.cat(batches).argsort()]


def rank_episodes(section: DistillSection, count: int) -> set[int]:
    """Return the episodes, out of `count`, that the ranking steps of a distillation read."""
    return {draw_episode(section.seed, step, count)[0] for step in range(section.rank_steps)}


def draw_episode(seed: int, step: int, count: int) -> tuple[int, np.random.Generator]:
    """Return the episode of a ranking step, out of `count`, and the generator of what else is random in the step.

    Ranking steps count from 0: a student that is trained longer on texts reads the same episodes.
    """
    rng = np.random.default_rng([seed, step, _RANKING])
    return int(rng.integers(count)), rng

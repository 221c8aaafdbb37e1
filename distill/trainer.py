"""Trains a student towards its targets: texts first, then rankings; resumable at any step.

Embedding matching comes first because it needs no episodes and does most of the work; ranking as the adapted teachers
do comes after, with the texts still beside it. As in `studies/training/outer_loop.py`, everything random is a function
of (seed, step).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from distill.losses import embedding_loss, hidden_loss, listwise_kl, margin_mse, relational_loss
from distill.student import Student, TokenTower
from distill.targets import Targets
from distill.teacher_states import TeacherStates
from distill.vocabulary import Speller
from studies.config.distill_section import DistillSection
from studies.episodes.episode import Episode
from studies.learners.tasks.losses import ranking_loss
from studies.model.device import device
from studies.model.encoder import by_length
from studies.training.candidate_sampling import thin
from studies.training.outer_loop import ScheduledAdamW, load_weights

QUERIES = 8
# Candidates of a ranking step: what the support and the queries took, and others drawn at random.
CANDIDATES = 48
# Padded tokens per pass: with texts of similar length together, a third less of the work is padding.
TOKENS = 2048
WEIGHT_DECAY = 0.01
# The head comes trained from the teacher, the encoder has lost most of its layers.
HEAD_RATE = 0.1


class Distiller:
    """Runs a distillation's steps; the optimizer is the teachers' (AdamW, warm-up, cosine decay, clipping).

    The student adapts as its teachers did: the inner loop moves the head alone, while the outer gradient reaches the
    encoder through the vectors that the head reads. Those are of the candidates; what only histories hold is read at
    its target (as in `studies/model/towers.py`), a seventh of the work.

    Args:
        student: trained in place.
        targets: what to reproduce; must hold the scores of every episode that `rank_episodes` names.
        episodes: meta-training episodes.
        section: numbers of steps, and the seed of what each step reads.
        states: the teacher's hidden states, where the hidden loss reads any.
    """

    def __init__(
        self,
        student: Student,
        targets: Targets,
        episodes: Sequence[Episode],
        section: DistillSection,
        states: TeacherStates | None = None,
    ) -> None:
        self.student = student
        self._targets, self._episodes, self._section, self._states = targets, episodes, section, states
        self._model = student.model
        values = student.hyperparameters
        trimmed = values.vocabulary == "catalogue" and values.spelling > 0
        self._speller = Speller(student.tokenizer, student.max_tokens) if trimmed else None
        if device().type == "cpu":
            # On short texts in bf16, SDPA's backward pass takes three times as long there (measured).
            student.tower.model.set_attn_implementation("eager")
        self._optimizer = ScheduledAdamW(
            self._model, HEAD_RATE * values.lr, WEIGHT_DECAY, section.steps, encoder_lr=values.lr
        )

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
        loss = self._read() if self.step < self._section.embed_steps else self._rank()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _read(self) -> Tensor:
        """The losses of a batch of texts."""
        targets, values = self._targets, self.student.hyperparameters
        rng = np.random.default_rng([self._section.seed, self.step])
        rows = rng.choice(len(targets.items), min(values.batch_size, len(targets.items)), replace=False)
        batch = torch.from_numpy(rows).to(targets.items.device)
        items, tower = targets.items[batch], self.student.tower
        spelled = len(items) // 2 if self._speller else 0
        if self._states is None:
            vectors, hidden = encode(tower, items[spelled:]), None
        else:
            read = tower.read(items[spelled:], states=True)
            ours, theirs = [read.states[layer] for layer in self._states.layers], self._states.of(items[spelled:])
            vectors, hidden = read.vectors, hidden_loss(ours, theirs, read.mask, tower.projection)
        if self._speller:
            texts = self._speller.spell(tower.tokens.rows(items[:spelled]), values.spelling, rng)
            other = TokenTower(tower.model, texts, tower.projection)
            vectors = torch.cat([encode(other, torch.arange(spelled)), vectors])
        loss = self._match(vectors, targets.vectors[batch])
        return loss if hidden is None else loss + values.hidden * hidden

    def _match(self, vectors: Tensor, wanted: Tensor) -> Tensor:
        values = self.student.hyperparameters
        loss = values.embedding * embedding_loss(vectors, wanted)
        return loss + values.relational * relational_loss(vectors, wanted) if values.relational else loss

    def _rank(self) -> Tensor:
        """All losses on a few queries of one episode; each distinct text is encoded once."""
        index, rng = draw(self._section.seed, self.step, len(self._episodes))
        whole, values = self._episodes[index], self.student.hyperparameters
        size = min(QUERIES, len(whole.relevant))
        queries = torch.from_numpy(rng.choice(len(whole.relevant), size, replace=False)).to(whole.items.device)
        episode, kept = asking(whole, queries, rng)
        items, count = episode.items, episode.candidates
        # Vectors that are not pulled to their targets must not be compared with them: then histories are read as well.
        own, wanted = count if values.embedding else len(items), self._targets.of(items)
        read = encode(self.student.tower, items[:own])
        vectors = torch.cat([read, wanted[own:]])
        scores = self.student.learner.adapt(episode, vectors, training=True).scores(episode.query_history)
        loss = self._match(read, wanted[:own])
        if values.listwise or values.margin:
            teachers = self._targets.ranking(index, values.teachers)[queries][:, kept]
            loss = loss + values.listwise * listwise_kl(scores, teachers, values.temperature)
            loss = loss + values.margin * margin_mse(scores, teachers, episode.relevant, episode.excluded)
        if values.hard:
            loss = loss + values.hard * ranking_loss(scores, episode.relevant, episode.excluded)
        return loss

    def state(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint: all weights and the optimizer's moments."""
        return self._optimizer.state()

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Continues from what `state` gave after `step` steps."""
        load_weights(self._model, tensors)
        self._optimizer.restore(tensors, step)


def encode(tower: TokenTower, items: Tensor) -> Tensor:
    """(M, D) vectors of (M,) items, with their graph, in groups of similar length."""
    batches = [rows.to(items.device) for rows in by_length(tower.tokens.lengths[items.cpu()], TOKENS)]
    vectors = torch.cat([tower(items[rows]) for rows in batches])
    return vectors[torch.cat(batches).argsort()]


def rank_episodes(section: DistillSection, count: int) -> set[int]:
    """The episodes, out of `count`, that a distillation's ranking steps will read."""
    return {draw(section.seed, step, count)[0] for step in range(section.embed_steps, section.steps)}


def draw(seed: int, step: int, count: int) -> tuple[int, np.random.Generator]:
    """The episode of a ranking step, out of `count`, and the generator for what else is random in the step."""
    rng = np.random.default_rng([seed, step])
    return int(rng.integers(count)), rng


def asking(whole: Episode, queries: Tensor, rng: np.random.Generator) -> tuple[Episode, Tensor]:
    """The episode with some of its queries and candidates, and only the items that these and the support need.

    Args:
        whole: the episode.
        queries: (R,) rows of its queries.
        rng: draws the candidates that remain.

    Returns:
        The smaller episode, and the (C',) positions of its candidates among the whole's.
    """
    asked = replace(
        whole,
        query_history=whole.query_history[queries],
        relevant=whole.relevant[queries],
        excluded=whole.excluded[queries],
        users=whole.users[queries],
    )
    small = thin(asked, CANDIDATES, rng)
    kept = torch.searchsorted(whole.items[: whole.candidates], small.items[: small.candidates])
    read = small.support_history.any(0) | small.query_history.any(0)
    read[: small.candidates] = True
    needed = read.nonzero().squeeze(1)
    return replace(
        small,
        items=small.items[needed],
        support_history=small.support_history[:, needed],
        query_history=small.query_history[:, needed],
    ), kept

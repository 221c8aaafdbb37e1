"""An episode as a task: what of the recommender adapts to it, and the two losses of these weights.

Kept apart from the learners, so that a learner is an algorithm and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from studies.episodes import Episode
from studies.learners.inner_loop import Weights, detached
from studies.recommender import INNER_RATES, AdaptedScene, Reading, Recommender

# What adapts to a scene: nothing; the direction of taste and the weights of the score's terms; all of the head; all
# that trains, the encoder's top layers included. A bias per candidate adapts with any of the last three.
Part = Literal["nothing", "tail", "head", "everything"]
_TAIL = ("head.scene", "head.gates")
# Weights of the outer loop alone: they say how others move.
_RATES = ("bias_rate", INNER_RATES)


class SceneTask:
    """One episode.

    Args:
        model: the recommender that adapts; its weights are read, never changed.
        episode: the episode.
        vectors: gives the (M, D) vectors of `episode.items` from the unadapted tower; not asked for where the encoder
            adapts.
        part: what adapts.
        training: keep the graph that the outer loop differentiates.
    """

    def __init__(
        self, model: Recommender, episode: Episode, vectors: Callable[[], Tensor], part: Part, *, training: bool
    ) -> None:
        self._model, self._episode, self._part, self._training = model, episode, part, training
        self._encode = vectors
        self._encoder_adapts = part == "everything" and model.encoder_trains

    def start(self) -> Weights:
        """The weights that adapt; the bias of each candidate starts at zero."""
        if self._part == "nothing":
            return {}
        named: Weights = {
            name: p for name, p in self._model.named_parameters() if p.requires_grad and _adapts(name, self._part)
        }
        return (named if self._training else detached(named)) | {"bias": self._no_bias().requires_grad_()}

    def rates(self) -> Mapping[str, Tensor]:
        """The bias's gradient is spread over K interactions: it moves at a learned rate of its own."""
        rate = self._model.head.bias_rate.exp()
        return {"bias": rate if self._training else rate.detach()}

    def support_loss(self, weights: Weights) -> Tensor:
        """Cross-entropy of the support's interactions over the candidates.

        Each support user sees all interactions but their own: their own is the label, and seeing it would leave
        nothing to learn.
        """
        episode, rows = self._support
        scene = self.scene(weights, episode, rows)
        memory = 1 - torch.eye(len(episode.support)).to(self._model.head.scene)
        return functional.cross_entropy(scene.scores(episode.support_history, memory), episode.support)

    def query_loss(self, weights: Weights) -> Tensor:
        """`ranking_loss` of the queries."""
        episode = self._episode
        scores = self.scene(weights).scores(episode.query_history)
        return ranking_loss(scores, episode.relevant, episode.excluded)

    def scene(self, weights: Weights, episode: Episode | None = None, rows: Tensor | None = None) -> AdaptedScene:
        """The scene under some weights; those left out are the model's own.

        Args:
            weights: of the inner loop.
            episode: a part of the task's episode, as `_support` is; all of it if left out.
            rows: positions of its items in the whole episode's.
        """
        moved = {name.removeprefix("head."): w for name, w in weights.items() if name.startswith("head.")}
        # Neither taste nor gates are part of the reading: where only they adapt, it is made once.
        reading = self._reading if moved.keys() <= {"scene", "gates"} else self._read(weights, moved, episode, rows)
        head = self._model.head
        scene, gates = (head.scene, head.gates) if self._training else (head.scene.detach(), head.gates.detach())
        bias = weights["bias"] if "bias" in weights else self._no_bias()
        return AdaptedScene(reading, moved.get("scene", scene), moved.get("gates", gates), bias, moved)

    def _no_bias(self) -> Tensor:
        return torch.zeros(self._episode.candidates).to(self._model.head.scene)

    @cached_property
    def _vectors(self) -> Tensor:
        vectors = self._encode()
        return vectors if self._training else vectors.detach()

    @cached_property
    def _reading(self) -> Reading:
        with torch.set_grad_enabled(self._training):
            return self._head_reads(self._episode, self._vectors, {})

    def _read(self, weights: Weights, head: Weights, episode: Episode | None, rows: Tensor | None) -> Reading:
        """The head's reading under adapted weights; where the encoder adapts, its texts are read again."""
        episode = episode or self._episode
        if self._encoder_adapts:
            tower = {name.removeprefix("tower."): w for name, w in weights.items() if name.startswith("tower.")}
            vectors = functional_call(self._model.tower, tower, (episode.items,))
        else:
            vectors = self._vectors if rows is None else self._vectors[rows]
        return self._head_reads(episode, vectors, head)

    def _head_reads(self, episode: Episode, vectors: Tensor, head: Weights) -> Reading:
        inputs = (vectors, episode.candidates, episode.support, episode.overlap)
        reading: Reading = functional_call(self._model.head, head, inputs)
        return reading

    @cached_property
    def _support(self) -> tuple[Episode, Tensor | None]:
        """The episode without what only its queries had: the support's loss reads nothing of it."""
        if self._part in ("nothing", "tail"):
            return self._episode, None
        read = self._episode.support_history.any(dim=0)
        read[: self._episode.candidates] = True
        rows = read.nonzero().squeeze(1)
        history = self._episode.support_history[:, rows]
        return replace(self._episode, items=self._episode.items[rows], support_history=history), rows


@contextmanager
def scene_tasks(model: Recommender, episodes: Sequence[Episode], part: Part) -> Iterator[Iterator[SceneTask]]:
    """The tasks of a meta-batch, each distinct text of which is encoded once.

    The caller calls `backward` on each task's loss, one task at a time, so that one graph at a time is held; what the
    vectors gather on the way is passed on to the encoder when the block ends.

    Args:
        model: the recommender.
        episodes: of the meta-batch.
        part: what adapts.
    """
    table = _Table(model, episodes)
    yield (
        SceneTask(model, episode, partial(table.of, number), part, training=True)
        for number, episode in enumerate(episodes)
    )
    table.backward()


class _Table:
    """The vectors of a meta-batch, computed when first asked for; each task's graph ends at them."""

    def __init__(self, model: Recommender, episodes: Sequence[Episode]) -> None:
        self._tower = model.tower
        self._items, positions = torch.unique(torch.cat([e.items for e in episodes]), return_inverse=True)
        self._rows = positions.split([len(e.items) for e in episodes])
        self._leaf: Tensor | None = None

    def of(self, number: int) -> Tensor:
        """(M, D) vectors of one episode."""
        if self._leaf is None:
            self._vectors: Tensor = self._tower(self._items)
            self._leaf = self._vectors.detach().requires_grad_(self._vectors.requires_grad)
        return self._leaf[self._rows[number]]

    def backward(self) -> None:
        """Passes what the tasks' losses have left at the vectors on to the encoder."""
        if self._leaf is not None and self._leaf.grad is not None:
            self._vectors.backward(self._leaf.grad)  # type: ignore[no-untyped-call]


def ranking_loss(scores: Tensor, relevant: Tensor, excluded: Tensor) -> Tensor:
    """Softmax cross-entropy over candidates, averaged over each query's relevant items, then over queries.

    Args:
        scores: (Q, C).
        relevant: (Q, C) bool, at least one per row.
        excluded: (Q, C) bool: candidates that are not ranked for the query.
    """
    # Far below any score, and finite: minus infinity times a target of zero would be NaN.
    scores = scores.masked_fill(excluded, -1e4)
    target = relevant.to(scores.dtype)
    target = target / target.sum(1, keepdim=True)
    return -(target * scores.log_softmax(1)).sum(1).mean()


def _adapts(name: str, part: Part) -> bool:
    if part == "tail":
        return name in _TAIL
    return not _is_rate(name) and (part == "everything" or name.startswith("head."))


def _is_rate(name: str) -> bool:
    return any(piece in _RATES for piece in name.split("."))

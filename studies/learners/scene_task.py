"""Episodes as tasks: what of the recommender adapts to them, and the two losses of these weights.

Kept apart from the learners, so that a learner is an algorithm and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from studies.episodes import Episode
from studies.learners.inner_loop import Weights, detached
from studies.learners.inputs import Inputs, Side, gather
from studies.recommender import INNER_RATES, AdaptedScene, Reading, Recommender
from studies.towers import TopLayersTower, in_groups

# What adapts to a scene: nothing; the direction of taste and the weights of the score's terms; all of the head; all
# that trains, the encoder's top layers included. A bias per candidate adapts with any of the last three.
Part = Literal["nothing", "tail", "head", "everything"]
_TAIL = ("head.scene", "head.gates")
# Weights of the outer loop alone: they say how others move.
_RATES = ("bias_rate", INNER_RATES)
_READER = "tower.reader."
# Numbers in the largest tensor of an operation up to which starting it takes about as long as doing it: episodes are
# put side by side until they fill it, and larger ones run one by one (docs/decisions.md).
FILL = 2**15


@dataclass(frozen=True)
class Tokens:
    """The candidates' texts for an encoder that adapts.

    Attributes:
        padded: (E, C, L, W) states that enter the layers and their (E, C, L) mask, of several episodes.
        groups: of one episode, in groups of similar length.
    """

    padded: tuple[Tensor, Tensor] | None = None
    groups: list[tuple[Tensor, Tensor, Tensor]] | None = None


class SceneTask:
    """One episode, or several side by side.

    Args:
        model: the recommender that adapts; its weights are read, never changed.
        inputs: the episodes.
        vectors: gives the candidates' vectors from the unadapted tower, (C, D) or (E, C, D).
        tokens: the candidates' texts, where the encoder adapts.
        part: what adapts.
        training: keep the graph that the outer loop differentiates.
        support_batch_size: interactions of the support per inner step; all of them if left out.
        episodes: E, or none for one episode without a leading axis.
    """

    def __init__(
        self,
        model: Recommender,
        inputs: Inputs,
        vectors: Callable[[], Tensor],
        tokens: Tokens | None,
        part: Part,
        *,
        training: bool,
        support_batch_size: int | None = None,
        episodes: int | None = None,
    ) -> None:
        self._model, self._inputs, self._part, self._training = model, inputs, part, training
        self._encode, self._tokens, self._batch, self._episodes = vectors, tokens, support_batch_size, episodes
        self._vectors: Tensor | None = None
        self._readings: dict[str, Reading] = {}

    @classmethod
    def of(
        cls,
        model: Recommender,
        episode: Episode,
        vectors: Tensor,
        part: Part,
        *,
        training: bool,
        support_batch_size: int | None = None,
    ) -> SceneTask:
        """The task of one episode, whose items' (M, D) vectors from the unadapted tower are at hand."""
        inputs = gather([episode], lambda _, positions: vectors[positions])
        candidates = episode.items[: episode.candidates]
        tokens = None
        if encoder_adapts(model, part):
            tokens = Tokens(groups=_tower(model).groups(candidates))
        known = vectors[: episode.candidates]
        return cls(model, inputs, lambda: known, tokens, part, training=training, support_batch_size=support_batch_size)

    def start(self) -> Weights:
        """The weights that adapt; the bias of each candidate starts at zero."""
        if self._part == "nothing":
            return {}
        named: Weights = {
            name: p if self._episodes is None else p.expand(self._episodes, *p.shape)
            for name, p in self._model.named_parameters()
            if p.requires_grad and _adapts(name, self._part)
        }
        return (named if self._training else detached(named)) | {"bias": self._no_bias().requires_grad_()}

    def rates(self) -> Mapping[str, Tensor]:
        """The bias's gradient is spread over K interactions: it moves at a learned rate of its own."""
        rate = self._model.head.bias_rate.exp()
        return {"bias": rate if self._training else rate.detach()}

    def support_loss(self, weights: Weights, step: int = 0) -> Tensor:
        """Cross-entropy of the support's interactions over the candidates, of those in the step's batch.

        Each support user sees all interactions but their own: their own is the label, and seeing it would leave
        nothing to learn.
        """
        shots = self._inputs.support.shape[-1]
        size = min(self._batch or shots, shots)
        rows = (torch.arange(size) + step * size) % shots

        def loss(weights: Weights, inputs: Inputs, read: Any) -> Tensor:
            scene = self._adapted(weights, inputs, inputs.supporters, read)
            support = inputs.support
            memory = 1 - torch.eye(shots).to(scene.gates)
            history = inputs.supporters.history
            if size < shots:
                support, memory, history = support[rows], memory[rows], history[rows]
            scores = scene.scores(history, memory).masked_fill(~inputs.present, _UNRANKED)
            return functional.cross_entropy(scores, support)

        return self._each(loss, weights, "supporters")

    def query_loss(self, weights: Weights) -> Tensor:
        """`ranking_loss` of the queries."""

        def loss(weights: Weights, inputs: Inputs, read: Any) -> Tensor:
            scene = self._adapted(weights, inputs, inputs.askers, read)
            unranked = inputs.excluded | ~inputs.present
            return ranking_loss(scene.scores(inputs.askers.history), inputs.relevant, unranked, inputs.asked)

        return self._each(loss, weights, "askers")

    def scene(self, weights: Weights) -> AdaptedScene:
        """The scene under some weights, for anyone to ask; those left out are the model's own. Of one episode only."""
        inputs = self._inputs
        return self._adapted(weights, inputs, inputs.askers, self._read(weights, "askers"))

    def _each(self, loss: Callable[[Weights, Inputs, Any], Tensor], weights: Weights, side: str) -> Tensor:
        run = loss if self._episodes is None else torch.vmap(loss)
        return run(weights, self._inputs, self._read(weights, side))

    def _read(self, weights: Weights, side: str) -> Any:
        """What the scores of a side start from: a reading that no weight moves, else vectors or texts to read anew."""
        if any(name.startswith(_READER) for name in weights):
            assert self._tokens is not None
            return self._tokens.padded or self._tokens.groups
        vectors = self._candidates()
        # Neither taste nor gates are part of the reading: where only they adapt, it is made once.
        if not {name for name in weights if name.startswith("head.")} <= {*_TAIL}:
            return vectors
        if side not in self._readings:
            with torch.set_grad_enabled(self._training):
                read = partial(self._reading, {})
                run = read if self._episodes is None else torch.vmap(read)
                self._readings[side] = run(self._inputs, getattr(self._inputs, side), vectors)
        return self._readings[side]

    def _candidates(self) -> Tensor:
        if self._vectors is None:
            self._vectors = self._encode() if self._training else self._encode().detach()
        return self._vectors

    def _adapted(self, weights: Weights, inputs: Inputs, side: Side, read: Any) -> AdaptedScene:
        """One episode under its weights; `read` is what `_read` gives."""
        moved = {name.removeprefix("head."): w for name, w in weights.items() if name.startswith("head.")}
        if isinstance(read, Reading):
            reading = read
        else:
            vectors = read if isinstance(read, Tensor) else self._encoded(weights, read)
            reading = self._reading(moved, inputs, side, vectors)
        head = self._model.head
        scene, gates = (head.scene, head.gates) if self._training else (head.scene.detach(), head.gates.detach())
        bias = weights["bias"] if "bias" in weights else torch.zeros_like(inputs.texts.terms[:, 0])
        return AdaptedScene(reading, moved.get("scene", scene), moved.get("gates", gates), bias, moved)

    def _encoded(self, weights: Weights, texts: Any) -> Tensor:
        """(C, D) vectors by the adapted encoder."""
        moved = {name.removeprefix(_READER): w for name, w in weights.items() if name.startswith(_READER)}
        reader = _tower(self._model).reader
        if isinstance(texts, list):
            return in_groups(lambda hidden, mask: functional_call(reader, moved, (hidden, mask)), texts)
        vectors: Tensor = functional_call(reader, moved, texts)
        return vectors

    def _reading(self, head: Weights, inputs: Inputs, side: Side, vectors: Tensor) -> Reading:
        everything = torch.cat([vectors, side.others])
        arguments = (everything, len(vectors), inputs.support, inputs.texts, inputs.present)
        reading: Reading = functional_call(self._model.head, head, arguments)
        return reading

    def _no_bias(self) -> Tensor:
        return torch.zeros(self._inputs.present.shape).to(self._model.head.scene)


def encoder_adapts(model: Recommender, part: Part) -> bool:
    """Whether the inner loop moves weights of the encoder."""
    return part == "everything" and model.encoder_trains


@contextmanager
def scene_tasks(
    model: Recommender,
    episodes: Sequence[Episode],
    part: Part,
    *,
    support_batch_size: int | None = None,
    at_once: int | None = None,
) -> Iterator[Iterator[SceneTask]]:
    """The tasks of a meta-batch, each distinct text of which is encoded once.

    The caller calls `backward` on each task's loss, one task at a time, so that one graph at a time is held; what the
    vectors gather on the way is passed on to the encoder when the block ends.

    Args:
        model: the recommender.
        episodes: of the meta-batch.
        part: what adapts.
        support_batch_size: interactions of the support per inner step.
        at_once: most episodes side by side; by their size if left out.
    """
    table = _Table(model, episodes)
    adapts = encoder_adapts(model, part)
    tower: Any = model.tower

    def task(group: Sequence[int]) -> SceneTask:
        chosen = [episodes[number] for number in group]
        inputs = gather(chosen, lambda number, positions: tower.locked[chosen[number].items[positions]])
        return SceneTask(
            model,
            inputs,
            partial(table.of, group),
            _tokens(_tower(model), chosen) if adapts else None,
            part,
            training=True,
            support_batch_size=support_batch_size,
            episodes=len(chosen) if len(chosen) > 1 else None,
        )

    sizes = [_size(episode, model, adapts) for episode in episodes]
    yield map(task, side_by_side(episodes, sizes, at_once))
    table.backward()


def side_by_side(episodes: Sequence[Episode], sizes: Sequence[int], at_once: int | None = None) -> list[list[int]]:
    """Which episodes run side by side: of like size, so that little is padding, and as many as fill the machine.

    Args:
        episodes: of a meta-batch.
        sizes: numbers in the largest tensor that an operation on each makes.
        at_once: most of them; by their sizes if left out.
    """
    order = sorted(range(len(episodes)), key=lambda number: (len(episodes[number].support), sizes[number]))
    groups: list[list[int]] = []
    for number in order:
        last = groups[-1] if groups else []
        alike = bool(last) and len(episodes[last[0]].support) == len(episodes[number].support)
        room = (len(last) + 1) * sizes[number] <= FILL if at_once is None else len(last) < at_once
        if alike and room:
            last.append(number)
        else:
            groups.append([number])
    return groups


def _size(episode: Episode, model: Recommender, adapts: bool) -> int:
    """Numbers in the largest tensor of an operation: hidden states where the encoder adapts, else kernels."""
    if not adapts:
        return len(episode.items) * episode.candidates
    tower = _tower(model)
    longest = int(tower.lengths(episode.items[: episode.candidates]).max())
    return episode.candidates * longest * tower.width


def _tokens(tower: TopLayersTower, episodes: Sequence[Episode]) -> Tokens:
    if len(episodes) == 1:
        return Tokens(groups=tower.groups(episodes[0].items[: episodes[0].candidates]))
    rows = _filled([episode.items[: episode.candidates] for episode in episodes])
    hidden, mask = tower.texts(rows.flatten())
    return Tokens(padded=(hidden.view(*rows.shape, *hidden.shape[1:]), mask.view(*rows.shape, -1)))


def _tower(model: Recommender) -> TopLayersTower:
    assert isinstance(model.tower, TopLayersTower)
    return model.tower


class _Table:
    """The candidates' vectors of a meta-batch, computed when first asked for; each task's graph ends at them."""

    def __init__(self, model: Recommender, episodes: Sequence[Episode]) -> None:
        self._tower = model.tower
        candidates = [episode.items[: episode.candidates] for episode in episodes]
        self._items, positions = torch.unique(torch.cat(candidates), return_inverse=True)
        self._rows = positions.split([episode.candidates for episode in episodes])
        self._leaf: Tensor | None = None

    def of(self, group: Sequence[int]) -> Tensor:
        """(C, D) vectors of one episode's candidates, or (E, C, D) of several, padded."""
        if self._leaf is None:
            self._vectors: Tensor = self._tower(self._items)
            self._leaf = self._vectors.detach().requires_grad_(self._vectors.requires_grad)
        rows = _filled([self._rows[number] for number in group])
        return self._leaf[rows if len(group) > 1 else rows[0]]

    def backward(self) -> None:
        """Passes what the tasks' losses have left at the vectors on to the encoder."""
        if self._leaf is not None and self._leaf.grad is not None:
            self._vectors.backward(self._leaf.grad)  # type: ignore[no-untyped-call]


def _filled(rows: Sequence[Tensor]) -> Tensor:
    """(E, C) row numbers, short rows filled up with their first: valid, and hidden by `Inputs.present`."""
    longest = max(len(row) for row in rows)
    return torch.stack([torch.cat([row, row[:1].expand(longest - len(row))]) for row in rows])


# Far below any score, and finite: minus infinity times a target of zero would be NaN.
_UNRANKED = -1e4


def ranking_loss(scores: Tensor, relevant: Tensor, excluded: Tensor, asked: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy over candidates, averaged over each query's relevant items, then over queries.

    Args:
        scores: (Q, C).
        relevant: (Q, C) bool, at least one per row.
        excluded: (Q, C) bool: candidates that are not ranked for the query.
        asked: (Q,) 1 for a query, 0 for padding; all ones if left out.
    """
    scores = scores.masked_fill(excluded, _UNRANKED)
    target = relevant.to(scores.dtype)
    target = target / target.sum(1, keepdim=True).clamp(min=1)
    losses = -(target * scores.log_softmax(1)).sum(1)
    return losses.mean() if asked is None else (losses * asked).sum() / asked.sum()


def _adapts(name: str, part: Part) -> bool:
    if part == "tail":
        return name in _TAIL
    return not _is_rate(name) and (part == "everything" or name.startswith("head."))


def _is_rate(name: str) -> bool:
    return any(piece in _RATES for piece in name.split("."))

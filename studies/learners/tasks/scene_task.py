"""Episodes as tasks: what of the recommender adapts to them, and the two losses of these weights.

Kept apart from the learners, so that a learner is an algorithm and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from studies.episodes.episode import Episode
from studies.learners.inner_loop import Weights, detached
from studies.learners.tasks.inputs import Inputs, gather
from studies.model.recommender import INNER_RATES, AdaptedScene, Evidence, Reading, Recommender
from studies.model.towers import TopLayersTower, in_groups

# What adapts to a scene: nothing; the direction of taste and the weights of the score's terms; all of the head; all
# that trains, the encoder's top layers included. A bias per candidate adapts with any of the last three.
AdaptedParameters = Literal["nothing", "tail", "head", "everything"]
# The users of an episode: those of `Inputs`.
Who = Literal["supporters", "askers"]
_TAIL = ("head.scene", "head.gates")
# Weights of the outer loop alone: they say how others move.
_RATES = ("bias_rate", INNER_RATES)
_READER = "tower.reader."


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
        part: AdaptedParameters,
        *,
        training: bool,
        support_batch_size: int | None = None,
        episodes: int | None = None,
    ) -> None:
        self._model, self._inputs, self._part, self._training = model, inputs, part, training
        self._encode, self._tokens, self._batch, self._episodes = vectors, tokens, support_batch_size, episodes
        self._vectors: Tensor | None = None
        self._gathered: dict[Who, Evidence] = {}
        self._readings: dict[Who, Reading] = {}

    @classmethod
    def of(
        cls,
        model: Recommender,
        episode: Episode,
        vectors: Tensor,
        part: AdaptedParameters,
        *,
        training: bool,
        support_batch_size: int | None = None,
    ) -> SceneTask:
        """The task of one episode, whose items' (M, D) vectors from the unadapted tower are at hand."""
        inputs = gather([episode], lambda _, positions: vectors[positions])
        candidates = episode.items[: episode.candidates]
        tokens = None
        if encoder_adapts(model, part):
            tokens = Tokens(groups=top_layers(model).groups(candidates))
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
            scores = self._scores(weights, inputs, "supporters", read).masked_fill(~inputs.present, _UNRANKED)
            if size < shots:
                return functional.cross_entropy(scores[rows], inputs.support[rows])
            return functional.cross_entropy(scores, inputs.support)

        return self._each(loss, weights, "supporters")

    def query_loss(self, weights: Weights) -> Tensor:
        """`ranking_loss` of the queries."""

        def loss(weights: Weights, inputs: Inputs, read: Any) -> Tensor:
            unranked = inputs.excluded | ~inputs.present
            return ranking_loss(self._scores(weights, inputs, "askers", read), inputs.relevant, unranked, inputs.asked)

        return self._each(loss, weights, "askers")

    def scene(self, weights: Weights) -> AdaptedScene:
        """The scene under some weights, for anyone to ask; those left out are the model's own. Of one episode only."""
        read = self._vectors_to_read(weights)
        # Where nobody asks yet, as in serving, histories are read when somebody does: any side's reading will do.
        side: Who = "askers" if len(self._inputs.asked) else "supporters"
        reading = self._reading(weights, self._inputs, side, read)
        return AdaptedScene(reading, self._scene(weights), self._gates(weights), self._bias(weights), _of_head(weights))

    def _each(self, loss: Callable[[Weights, Inputs, Any], Tensor], weights: Weights, side: Who) -> Tensor:
        run = loss if self._episodes is None else torch.vmap(loss)
        return run(weights, self._inputs, self._read(weights, side))

    def _read(self, weights: Weights, side: Who) -> Any:
        """What a side's scores start from: evidence that no weight moves, else vectors or texts to read anew."""
        # Taste and gates weigh the evidence; where nothing else adapts, it is gathered once.
        if not _only_weighs(weights):
            return self._vectors_to_read(weights)
        if side not in self._gathered:
            with torch.set_grad_enabled(self._training):

                def gathered(inputs: Inputs, vectors: Tensor) -> Evidence:
                    return self._evidence({}, inputs, side, vectors)

                run = gathered if self._episodes is None else torch.vmap(gathered)
                self._gathered[side] = run(self._inputs, self._vectors_to_read({}))
        return self._gathered[side]

    def _vectors_to_read(self, weights: Weights) -> Any:
        """The candidates' vectors, or their texts where weights of the encoder have moved."""
        if any(name.startswith(_READER) for name in weights):
            assert self._tokens is not None
            return self._tokens.padded or self._tokens.groups
        return self._candidates()

    def _candidates(self) -> Tensor:
        if self._vectors is None:
            self._vectors = self._encode() if self._training else self._encode().detach()
        return self._vectors

    def _scores(self, weights: Weights, inputs: Inputs, side: Who, read: Any) -> Tensor:
        """(R, C) scores of a side of one episode under its weights; `read` is what `_read` gives."""
        evidence = read if isinstance(read, Evidence) else self._evidence(weights, inputs, side, read)
        return evidence.scores(self._gates(weights), self._scene(weights), self._bias(weights, inputs))

    def _evidence(self, weights: Weights, inputs: Inputs, side: Who, read: Any) -> Evidence:
        reading = self._reading(weights, inputs, side, read)
        history: Tensor = getattr(inputs, side).history
        shots = reading.support.shape[1]
        memory = 1 - torch.eye(shots) if side == "supporters" else torch.ones(len(history), shots)
        return reading.asked(history, memory.to(history))

    def _reading(self, weights: Weights, inputs: Inputs, side: Who, read: Any) -> Reading:
        vectors = read if isinstance(read, Tensor) else self._encoded(weights, read)
        # Not side by side, where what is made lives only as long as the pass; nor where a graph would be kept.
        lasting = _only_weighs(weights) and self._episodes is None and not self._training
        if lasting and side in self._readings:
            return self._readings[side]
        history, others = getattr(inputs, side)
        everything = torch.cat([vectors, others])
        first_held = len(everything) - history.shape[1]
        arguments = (everything, len(vectors), inputs.support, inputs.texts, inputs.present, first_held)
        reading: Reading = functional_call(self._model.head, _of_head(weights), arguments)
        if lasting:
            self._readings[side] = reading
        return reading

    def _gates(self, weights: Weights) -> Tensor:
        gates = self._model.head.gates
        return weights.get("head.gates", gates if self._training else gates.detach())

    def _scene(self, weights: Weights) -> Tensor:
        scene = self._model.head.scene
        return weights.get("head.scene", scene if self._training else scene.detach())

    def _bias(self, weights: Weights, inputs: Inputs | None = None) -> Tensor:
        return weights["bias"] if "bias" in weights else torch.zeros_like((inputs or self._inputs).texts.terms[:, 0])

    def _encoded(self, weights: Weights, texts: Any) -> Tensor:
        """(C, D) vectors by the adapted encoder."""
        moved = {name.removeprefix(_READER): w for name, w in weights.items() if name.startswith(_READER)}
        reader = top_layers(self._model).reader
        if isinstance(texts, list):
            return in_groups(lambda hidden, mask: functional_call(reader, moved, (hidden, mask)), texts)
        vectors: Tensor = functional_call(reader, moved, texts)
        return vectors

    def _no_bias(self) -> Tensor:
        return torch.zeros(self._inputs.present.shape).to(self._model.head.scene)


def encoder_adapts(model: Recommender, part: AdaptedParameters) -> bool:
    """Whether the inner loop moves weights of the encoder."""
    return part == "everything" and model.encoder_trains


def top_layers(model: Recommender) -> TopLayersTower:
    """The tower of a recommender whose encoder trains."""
    assert isinstance(model.tower, TopLayersTower)
    return model.tower


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


def _only_weighs(weights: Weights) -> bool:
    """Whether what has moved weighs the evidence and does not change it."""
    return weights.keys() <= {*_TAIL, "bias"}


def _of_head(weights: Weights) -> Weights:
    return {name.removeprefix("head."): w for name, w in weights.items() if name.startswith("head.")}


def _adapts(name: str, part: AdaptedParameters) -> bool:
    if part == "tail":
        return name in _TAIL
    return not _is_rate(name) and (part == "everything" or name.startswith("head."))


def _is_rate(name: str) -> bool:
    return any(piece in _RATES for piece in name.split("."))

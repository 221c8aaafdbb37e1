"""Episodes of classification as tasks: which weights of the classifier adapt to them, and the losses of these weights.

The classes' weights and biases start at the support's prototypes (Triantafillou et al., "Meta-Dataset", ICLR 2020,
section 3, Proto-MAML, with cosines for distances) and adapt with any gradient step; those of known classes start where
training left them, so that a support need not hold every class. Where the names of the classes are read, a name is one
more example of its class, of a weight that the outer loop learns; without gradient steps, so is the vector of a known
class. Everything works on one episode, or on E of one shape with a leading axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from studies.classification.episode import LabelledEpisode
from studies.classification.learning.adapted import AdaptedClassifier
from studies.classification.learning.head import Classifier, projected, prototypes
from studies.learners.inner_loop import Weights, detached
from studies.learners.registry import AdaptedParameters
from studies.learners.tasks.token_states import encoder_adapts, layer_weights, token_states, top_layers_tower

# The head's parameters that adapt; its others are rates, or belong to joint training or to ridge regression.
_ADAPTING = ("head.project.weight", "head.log_scale")


class Examples(NamedTuple):
    """What the weights of the classes start from: the support, and where they are read the names of the classes.

    Attributes:
        positions: (..., R) positions in the items of the episode.
        labels: (..., R) the class of each, in 0..N-1.
        weights: (R,) how many labelled texts each counts as.
    """

    positions: Tensor
    labels: Tensor
    weights: Tensor


def balanced(weights: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return (..., R) weights by class scaled so that all classes count the same: the sums of their weights are equal.

    Args:
        weights: (R,) weights of examples, to which the new ones are proportional within a class.
        labels: (..., R) the class of each, in 0..N-1.
        classes: N.
    """
    sums = (functional.one_hot(labels, classes) * weights[..., :, None]).sum(-2)
    mean = sums.sum(-1, keepdim=True) / (sums > 0).sum(-1, keepdim=True)  # over the classes that have examples
    return weights * (mean / sums).gather(-1, labels)


@dataclass(kw_only=True, eq=False)
class ClassificationTask:
    """One episode, or E of one shape side by side: a `studies.learners.inner_loop.Task`.

    Attributes:
        model: The classifier that adapts; its weights are read, never changed.
        episodes: The episodes.
        unadapted: Gives the vectors of the episode's items from the unadapted tower, (M, D) or (E, M, D).
        adapts: What adapts.
        training: Whether to keep the graph that the outer loop differentiates.
        support_batch_size: Texts of the support per inner step; None for all of them.
        label_smoothing: Part of each label that all classes share in training and in the inner loop.
    """

    model: Classifier
    episodes: Sequence[LabelledEpisode]
    unadapted: Callable[[], Tensor]
    adapts: AdaptedParameters
    training: bool
    support_batch_size: int | None = None
    label_smoothing: float = 0.0

    def start(self) -> Weights:
        """Return the weights that adapt: the classes' start at the support's prototypes, their biases at zero."""
        if self.adapts == "nothing":
            return {}
        # Views, whose gradient is not that of the prototypes, which depend on the same parameters.
        shape = (len(self.episodes),) if len(self.episodes) > 1 else ()
        named: Weights = {
            name: p.expand((*shape, *p.shape))
            for name, p in self.model.named_parameters()
            if p.requires_grad and self._is_adapted(name)
        }
        classes = self._known_weights() if self.model.head.labels else self._prototypes({}, self._own_vectors())
        named[self._classes_name] = classes.requires_grad_()
        named["bias"] = torch.zeros_like(classes[..., 0]).requires_grad_()
        return named if self.training else detached(named)

    def rates(self) -> Mapping[str, Tensor]:
        """Return the learned rate of the classes' weights and biases, over `inner_lr`."""
        rate = self.model.head.weight_rate.exp()
        return dict.fromkeys((self._classes_name, "bias"), rate if self.training else rate.detach())

    def support_loss(self, weights: Weights, step: int = 0) -> Tensor:
        """Return the cross-entropy of the support's labels, of those in the step's batch; classes count the same."""
        positions, labels, balance = self._stacked("support"), self._stacked("support_labels"), self._balance
        shots = positions.shape[-1]
        if shots == 0:  # known classes stay where they are
            return 0 * weights["bias"].sum(-1)
        size = min(self.support_batch_size or shots, shots)
        if size < shots:
            order = self._support_order
            rows = order[..., (torch.arange(size, device=order.device) + step * size) % shots]
            positions, labels, balance = (each.gather(-1, rows) for each in (positions, labels, balance))
        losses = self._losses(self._logits(weights, self._vectors(weights, positions)), labels)
        return (balance * losses).mean(-1)

    def query_loss(self, weights: Weights) -> Tensor:
        """Return the cross-entropy of the query's labels."""
        vectors = self._vectors(weights, self._stacked("query"))
        return self._loss(self._logits(weights, vectors), self._stacked("query_labels"))

    def joint_loss(self) -> Tensor:
        """Return the cross-entropy of all of the episode's texts over all training classes."""
        positions = torch.cat([self._stacked("support"), self._stacked("query")], dim=-1)
        labels = torch.cat([self._stacked("support_labels"), self._stacked("query_labels")], dim=-1)
        classes = self._stacked("classes").gather(-1, labels)
        head = self.model.head
        return self._loss(head.joint_logits(self._unadapted_at(positions)), head.joint_labels(classes))

    def weighted_examples(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (..., R, D) vectors of `Examples` as the head projects them, (..., R, N) one-hot labels, and weights.

        The (..., R) weights make all classes count the same.
        """
        ways = self.episodes[0].ways
        vectors = self.model.head(self._unadapted_at(self._examples.positions))
        vectors, labels, weights = self._with_known(vectors)
        targets = functional.one_hot(labels, ways).to(vectors.dtype)
        return vectors, targets, balanced(weights.to(vectors.dtype), labels, ways)

    def adapted(self, weights: Weights) -> AdaptedClassifier:
        """Return the classifier under some weights; those left out are the model's own. Of one episode only."""
        (episode,), moved = self.episodes, layer_weights(weights)

        def encode(items: Tensor) -> Tensor:
            with torch.set_grad_enabled(self.training):
                vectors: Tensor = self._encode(moved, [items]) if moved else self.model.tower(items)
            return vectors

        return AdaptedClassifier(
            projection=self._weight(weights, "head.project.weight"),
            scale=self._weight(weights, "head.log_scale").exp(),
            class_weights=self._class_weights(weights),
            bias=self._bias(weights),
            encode_query=lambda: encode(episode.items[episode.query]) if moved else self._unadapted_at(episode.query),
            encode=encode,
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of (..., R, N) logits, averaged over each episode's R texts."""
        return self._losses(logits, labels).mean(-1)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the (..., R) cross-entropies of (..., R, N) logits."""
        losses = functional.cross_entropy(
            logits.flatten(0, -2), labels.flatten(), label_smoothing=self.label_smoothing, reduction="none"
        )
        return losses.view(labels.shape)

    def _logits(self, weights: Weights, vectors: Tensor) -> Tensor:
        """Return (..., R, N) logits of (..., R, D) vectors from the encoder."""
        classes, scale = self._class_weights(weights), self._weight(weights, "head.log_scale").exp()
        cosines = projected(vectors, self._weight(weights, "head.project.weight")) @ classes.mT
        return scale[..., None, None] * cosines + self._bias(weights)[..., None, :]

    def _class_weights(self, weights: Weights) -> Tensor:
        """Return the (..., N, D) weights that projected vectors are multiplied with."""
        if "linear_weights" in weights:
            return weights["linear_weights"]
        if self._classes_name in weights:
            return functional.normalize(weights[self._classes_name], dim=-1)
        if self.model.head.labels and not self.model.head.weighs_known:
            return self._known_weights()
        return self._prototypes(weights, self._vectors(weights, self._examples.positions))

    def _known_weights(self) -> Tensor:
        """Return the (..., N, D) weights that known classes have learned."""
        weights = self.model.head.known_weights(self._stacked("classes"))
        return weights if self.training else weights.detach()

    def _prototypes(self, weights: Weights, vectors: Tensor) -> Tensor:
        """Return the (..., N, D) prototypes of the examples' (..., R, D) vectors."""
        moved, labels, counts = self._with_known(projected(vectors, self._weight(weights, "head.project.weight")))
        return prototypes(moved, labels, self.episodes[0].ways, counts)

    def _with_known(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the examples' projected (..., R, D) vectors, labels and weights, and those of known classes behind."""
        examples = self._examples
        if not self.model.head.weighs_known:
            return vectors, examples.labels, examples.weights
        known, weight = self._known_weights(), self._weight({}, "head.log_known_weight").exp()
        of_known = torch.arange(known.shape[-2], device=known.device).expand(known.shape[:-1])
        return (
            torch.cat([vectors, known], dim=-2),
            torch.cat([examples.labels, of_known], dim=-1),
            torch.cat([examples.weights, weight.expand(known.shape[-2])]),
        )

    @property
    def _classes_name(self) -> str:
        """The name of the classes' weights among those that adapt: of known classes, that of the head's parameter."""
        return "head.class_vectors" if self.model.head.labels else "class_weights"

    def _bias(self, weights: Weights) -> Tensor:
        return weights["bias"] if "bias" in weights else self.model.head.log_scale.new_zeros(self.episodes[0].ways)

    def _weight(self, weights: Weights, name: str) -> Tensor:
        """Return a weight of the model, its own where it does not adapt."""
        own = self.model.get_parameter(name)
        return weights.get(name, own if self.training else own.detach())

    def _own_vectors(self) -> Tensor:
        """Return the examples' (..., R, D) vectors from the unadapted encoder.

        Where the inner loop encodes texts for itself, no other loss reads the vectors that the meta-batch would encode.
        """
        positions = self._examples.positions
        if not (self.training and encoder_adapts(self.model, self.adapts)):
            return self._unadapted_at(positions)
        return self._encode({}, self._texts(positions))

    def _vectors(self, weights: Weights, positions: Tensor) -> Tensor:
        """Return (..., R, D) vectors of the texts at some positions, by the layers as they are adapted."""
        moved = layer_weights(weights)
        return self._encode(moved, self._texts(positions)) if moved else self._unadapted_at(positions)

    def _encode(self, moved: Weights, texts: Sequence[Tensor]) -> Tensor:
        """Return the vectors of each episode's texts by the trained layers, some of which have moved."""
        tower = top_layers_tower(self.model)
        return token_states(tower, texts).encode(tower.top_layers, moved)

    def _texts(self, positions: Tensor) -> list[Tensor]:
        """Return the codes of the texts at (..., R) positions, by episode."""
        rows = positions.view(len(self.episodes), -1)
        return [episode.items[row] for episode, row in zip(self.episodes, rows, strict=True)]

    def _unadapted_at(self, positions: Tensor) -> Tensor:
        return torch.take_along_dim(self._unadapted_vectors, positions[..., None], dim=-2)

    @cached_property
    def _unadapted_vectors(self) -> Tensor:
        return self.unadapted() if self.training else self.unadapted().detach()

    @cached_property
    def _balance(self) -> Tensor:
        """Weights (..., S) of the support's texts, such that classes with different numbers of them count the same.

        1 each in the episodes of a study. Serving has as many labelled texts of a class as somebody labelled: without
        weights the classes with most of them would draw all others to themselves.
        """
        labels = self._stacked("support_labels")
        return balanced(torch.ones(labels.shape[-1], device=labels.device), labels, self.episodes[0].ways)

    @cached_property
    def _examples(self) -> Examples:
        positions, labels = self._stacked("support"), self._stacked("support_labels")
        weights = torch.ones(positions.shape[-1], device=positions.device)
        if not self.model.head.reads_names:
            return Examples(positions, labels, weights)
        names = self._stacked("names")
        of_names = torch.arange(names.shape[-1], device=names.device).expand(names.shape)
        weight = self._weight({}, "head.log_name_weight").exp()
        return Examples(
            torch.cat([positions, names], dim=-1),
            torch.cat([labels, of_names], dim=-1),
            torch.cat([weights.to(weight.dtype), weight.expand(names.shape[-1])]),
        )

    @cached_property
    def _support_order(self) -> Tensor:
        """Order (..., S) of the support's texts in batches: the classes in turn, so that each batch has them all."""
        labels, ways = self._stacked("support_labels"), self.episodes[0].ways
        members = functional.one_hot(labels, ways)
        earlier = (members.cumsum(-2) * members).sum(-1)
        return (earlier * ways + labels).argsort(-1)

    def _stacked(self, name: str) -> Tensor:
        """Return a tensor of the episode, or of all side by side."""
        tensors: list[Tensor] = [getattr(episode, name) for episode in self.episodes]
        return torch.stack(tensors) if len(tensors) > 1 else tensors[0]

    def _is_adapted(self, name: str) -> bool:
        if self.adapts == "score_weights":
            return False
        return name in _ADAPTING or (self.adapts == "everything" and name.startswith("tower."))

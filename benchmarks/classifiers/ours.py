"""Our systems on episodes, and those that train nothing: the frozen encoder with centroids and logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from classifiers.few_shot import Predict, as_texts
from distill.inference import StudentClassifier
from distill.student import TokenTower
from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.problem import ClassificationProblem
from studies.classification.scoring.metrics import predict
from studies.evaluation.evaluate import ItemVectors, encode_items
from studies.learners.base import Learner
from studies.model.device import full_precision


class Encoding:
    """The cost of encoding texts by the whole encoder, without anything cached.

    Trials read their frozen layers' activations from a cache, so what they would pay for a text that was never read is
    paid here: an encoder of the same shape reads it, in fp32. Where layers were trained the vectors themselves come
    from the trial.

    Args:
        problem: Whose encoder and texts are used.
    """

    def __init__(self, problem: ClassificationProblem) -> None:
        self._tower = TokenTower(problem.encoder.model, problem.tokens)
        self._lengths = problem.tokens.lengths

    def pay(self, episode: LabelledEpisode, *, names: bool) -> None:
        """Encode the support, and the names of the classes where they are read."""
        places = torch.cat([episode.support, episode.names]) if names else episode.support
        with full_precision():
            encode_items(self._tower, episode.items[places].unique(), self._lengths)


class Trial:
    """A trial of a search.

    Args:
        problem: The study's data.
        learner: The trial's.
        episodes: The episodes that it will adapt to.
    """

    def __init__(self, problem: ClassificationProblem, learner: Learner, episodes: Sequence[LabelledEpisode]) -> None:
        self._learner, self._encoding = learner, Encoding(problem)
        with full_precision():
            self._vectors = ItemVectors(learner.model.tower, episodes, problem.tokens.lengths)

    def adapt(self, episode: LabelledEpisode) -> Predict:
        """Encode the support and adapt."""
        self._encoding.pay(episode, names=self._learner.hyperparameters.reads_names)
        vectors = self._vectors.of(episode)
        with full_precision():
            adapted = self._learner.adapt(episode, vectors)

        def found() -> Tensor:
            with full_precision():
                return predict(adapted.predict(episode, vectors), episode)

        return found


class Student:
    """An exported student, as a user calls it.

    Args:
        data: The texts of the episodes.
        folder: The export.
    """

    def __init__(self, data: LabelledTexts, folder: Path) -> None:
        self._data, self._student = data, StudentClassifier.load(folder)

    def adapt(self, episode: LabelledEpisode) -> Predict:
        """Adapt to labelled texts."""
        texts = as_texts(self._data, episode)
        labelled = [(text, texts.names[label]) for text, label in zip(texts.support, texts.labels, strict=True)]
        classifier = self._student.adapt(labelled)

        def found() -> Tensor:
            return torch.tensor([texts.names.index(label) for label in classifier.predict(texts.queries)])

        return found


class Frozen:
    """The frozen encoder under centroids or a logistic regression of scikit-learn.

    Args:
        problem: The study's data.
        strength: C of the regression, the inverse of its penalty; centroids if left out.
        names: Whether the name of a class is one more example of it.
        encodes: Whether seconds hold the encoding of the support, which nothing else needs.
    """

    def __init__(
        self, problem: ClassificationProblem, strength: float | None, *, names: bool = False, encodes: bool = True
    ) -> None:
        self._strength, self._names = strength, names
        self._encoding = Encoding(problem) if encodes else None
        self._vectors = functional.normalize(problem.cache.pooled(), dim=1)

    def adapt(self, episode: LabelledEpisode) -> Predict:
        """Encode the support and fit."""
        if self._encoding is not None:
            self._encoding.pay(episode, names=self._names)
        places, labels = episode.support, episode.support_labels
        if self._names:
            places, labels = torch.cat([places, episode.names]), torch.cat([labels, torch.arange(episode.ways)])
        vectors = self._vectors[episode.items]
        if self._strength is None:
            sums = torch.zeros(episode.ways, vectors.shape[1]).index_add(0, labels, vectors[places])
            centroids = functional.normalize(sums, dim=1)
            return lambda: (vectors[episode.query] @ centroids.T).argmax(1)
        model = LogisticRegression(C=self._strength, max_iter=1000).fit(vectors[places].numpy(), labels.numpy())
        return lambda: torch.from_numpy(model.predict(vectors[episode.query].numpy()))

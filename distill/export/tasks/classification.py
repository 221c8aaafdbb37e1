"""The export of a classifier: the probabilities that it must give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from distill.export.card import CardWords
from distill.export.fresh_process import Asked
from distill.export.task_export import TaskExport
from distill.student import Student
from studies.classification.episode import LabelledEpisode
from studies.classification.learning.adapted import AdaptedClassifier
from studies.model.device import device, full_precision
from studies.training.problem import Problem

_SCRIPT = Path(__file__).with_name("served_probabilities.py")


class ClassificationExport(TaskExport):
    """The export of a classifier; beside encoder and head it has no files."""

    # Probabilities that differ by less are the same.
    rounding: ClassVar[float] = 1e-3
    answers = "probabilities"
    differs = "classifies otherwise"

    @classmethod
    def of(cls, problem: Problem) -> ClassificationExport:
        """Return the export of a study's students."""
        return cls()

    def write(self, student: Student, draft: Path) -> None:
        """Write nothing."""

    def scores(self, student: Student, episode: LabelledEpisode, vectors: Tensor) -> Tensor:
        """Return (Q, N) probabilities of the classes."""
        vectors = vectors.to(device())
        with full_precision():
            adapted: AdaptedClassifier = student.learner.adapt(episode, vectors)
            return adapted.probabilities(vectors[episode.query]).detach()

    def answer(self, scores: Tensor) -> Tensor:
        """Return the (Q, N) probabilities."""
        return scores

    def same(self, scores: Tensor, answers: Tensor, *, exact: bool) -> Tensor:
        """Return whether labels are the student's, (Q, 1); with exact weights, whether probabilities are, (Q, N)."""
        if exact:
            return (answers - scores).abs() <= self.rounding
        return answers.argmax(1, keepdim=True) == scores.argmax(1, keepdim=True)

    def asked(self, problem: Problem, episodes: Sequence[LabelledEpisode]) -> Asked:
        """Return what asks `StudentClassifier` for the (Q, N) probabilities of each episode."""
        return Asked(_SCRIPT, {"episodes": [as_texts(problem, episode) for episode in episodes]})


def as_texts(problem: Problem, episode: LabelledEpisode) -> dict[str, Any]:
    """Return an episode as `StudentClassifier.adapt` and `probabilities` take it, with the names of its classes."""
    texts = [problem.data.texts[item] for item in episode.items.tolist()]
    labels = [texts[place] for place in episode.names.tolist()]
    support = zip(episode.support.tolist(), episode.support_labels.tolist(), strict=True)
    return {
        "labels": labels,
        "support": [(texts[place], labels[label]) for place, label in support],
        "texts": [texts[place] for place in episode.query.tolist()],
    }


CARD = CardWords(
    tag="text-classification",
    head="adapts to new classes from a few labelled texts of\neach, and classifies texts among them",
    teachers="classifiers",
    use="Adapting to classes and classifying texts",
    example="""\
from distill.inference import StudentClassifier

student = StudentClassifier.load("path/to/this/folder")
classifier = student.adapt({"dairy": ["whole milk", "butter"], "drinks": ["green tea"]})
labels = classifier.predict(["oat drink"])
probabilities = classifier.probabilities(["oat drink"])  # columns as in classifier.labels
""",
    answers="labels shared with the student",
    scored="{scenes} episodes of classes that neither the search nor the distillation saw, each adapted from {shots} "
    "labelled texts of each class; averaged over classes, then episodes, with 95 % bootstrap intervals over episodes.",
    metrics={"accuracy": "accuracy", "f1": "macro-F1"},
)
# Of known classes in scenes.
SCENES_CARD = replace(
    CARD,
    head="classifies texts among the classes that it was\ntrained on, and adapts to new scenes from a few labels",
    use="Adapting to a scene and classifying texts",
    example="""\
from distill.inference import StudentClassifier

student = StudentClassifier.load("path/to/this/folder")
classifier = student.trained()  # before a scene has any labelled text
labels = classifier.predict(["oat drink"])
classifier = student.adapt([("oat drink", labels[0])])  # from what is known; a class may have no text
probabilities = classifier.probabilities(["oat drink"])  # columns as in classifier.labels
""",
    scored="{scenes} scenes that neither the search nor the distillation saw, each adapted from {shots} labelled texts "
    "of each class where it has them; averaged over classes, episodes, then scenes, with 95 % bootstrap intervals over "
    "scenes.",
    metrics={"roc_auc": "ROC-AUC", "average_precision": "average precision", "accuracy": "accuracy"},
)

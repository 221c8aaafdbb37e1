"""Explains a few labels of an exported classifier: texts of test episodes, chosen without a look at their labels."""

from __future__ import annotations

from pathlib import Path

from distill.export.task_export import spread
from distill.export.tasks.classification import as_texts
from distill.export.tasks.explained import (
    EPISODES,
    PARTS,
    TEXTS,
    ExplainedEpisode,
    ExplainedText,
    Explanations,
    LabelledNeighbour,
    cut,
)
from distill.inference import StudentClassifier
from studies.classification.episode import LabelledEpisode
from studies.training.problem import Problem


def explain(problem: Problem, folder: Path) -> Explanations:
    """Return the labels of some queries of a few test episodes, with the labelled texts that are nearest to each.

    Args:
        problem: The study's data. Where episodes have no labelled texts, none is near and nothing is explained.
        folder: The export.
    """
    first: dict[str, LabelledEpisode] = {}
    for episode in problem.test:
        if len(episode.support):
            first.setdefault(problem.scene_name(episode), episode)
    if not first:
        return Explanations()
    student = StudentClassifier.load(folder)
    chosen = spread(list(first), EPISODES)
    return Explanations(episodes=tuple(_explained(problem, name, first[name], student) for name in chosen))


def _explained(problem: Problem, name: str, episode: LabelledEpisode, student: StudentClassifier) -> ExplainedEpisode:
    request = as_texts(problem, episode)
    classifier = student.adapt(request["support"])
    queries = spread(list(zip(request["texts"], episode.query_labels.tolist(), strict=True)), TEXTS)
    texts = [text for text, _ in queries]
    found = classifier.explain(texts, PARTS)
    probabilities, predicted = (each.tolist() for each in found.probabilities.max(1))
    explained = []
    for place, (text, right) in enumerate(queries):
        nearest = [
            LabelledNeighbour(text=cut(near.text), label=cut(near.label), similarity=near.similarity)
            for near in found.nearest[place]
        ]
        explained.append(
            ExplainedText(
                text=cut(text),
                label=cut(classifier.labels[predicted[place]]),
                probability=probabilities[place],
                right=cut(request["labels"][right]),
                nearest=tuple(nearest),
            )
        )
    labelled = len(request["support"])
    return ExplainedEpisode(name=name, classes=len(classifier.labels), labelled=labelled, texts=tuple(explained))

"""The interface of a task to its export: the files that are its own, and what is compared in a fresh process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from distill.export.fresh_process import Asked
from distill.student import Student
from studies.training.problem import Problem

T = TypeVar("T")


class TaskExport(ABC):
    """What an export has of its study's task; each task has one in `distill/export/tasks/`.

    Attributes:
        answers: What a student gives for a query, such as "lists".
        differs: What an export does whose answers are not the student's, such as "ranks otherwise".
    """

    answers: ClassVar[str]
    differs: ClassVar[str]

    @classmethod
    @abstractmethod
    def of(cls, problem: Problem) -> TaskExport:
        """Return the export of a study's students."""

    @abstractmethod
    def write(self, student: Student, draft: Path) -> None:
        """Write the files that only this task has (`ExportedTask.files`)."""

    @abstractmethod
    def scores(self, student: Student, episode: Any, vectors: Tensor) -> Tensor:
        """Return the (Q, C) scores that a student gives to the answers of an episode's first few queries.

        Args:
            student: Adapts to the episode.
            episode: The episode.
            vectors: (M, D) vectors of `episode.items`.
        """

    def own_probabilities(self, student: Student, vectors: Tensor) -> Tensor:
        """Return the (R, N) probabilities that a student gives by itself to texts, given by their (R, D) vectors.

        Only of students that know their classes.
        """
        raise NotImplementedError

    @abstractmethod
    def answer(self, scores: Tensor) -> Tensor:
        """Return what is served of (Q, C) scores."""

    @abstractmethod
    def same(self, scores: Tensor, answers: Tensor, *, exact: bool) -> Tensor:
        """Return (Q, P), for each part of the answers to each query whether it is the student's own.

        Args:
            scores: (Q, C) the student's own.
            answers: What an export answers to the same queries.
            exact: Whether its weights are exact, so that only rounding may make a difference.
        """

    @abstractmethod
    def asked(self, problem: Problem, episodes: Sequence[Any]) -> Asked:
        """Return the script that serves with our library, asked for the first few queries of each episode.

        It writes the answers to each episode under its number.
        """


def spread(found: Sequence[T], count: int) -> list[T]:
    """Return at most so many of a sequence, spread evenly over it."""
    places = dict.fromkeys(round(place) for place in torch.linspace(0, len(found) - 1, count).tolist())
    return [found[place] for place in places] if found else []

"""What inference costs: parameters, bytes and texts per second of the best teacher and of the student."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

from distill.evaluation import EncoderFigures, InferenceFigures
from distill.objective import Student, Teacher
from distill.student import teacher_tower
from studies.evaluation.evaluate import encode_items
from studies.training.problem import Problem

# Of a round of timing: as many texts as the slower encoder reads in a second, within bounds.
ROUND_SECONDS, FEWEST_TEXTS, MOST_TEXTS, ROUNDS = 1.0, 64, 1024, 3


def inference_figures(problem: Problem, teacher: Teacher, student: Student) -> InferenceFigures:
    """Measure parameters, bytes and texts per second of the whole encoders, in alternating runs."""
    rates: dict[str, list[float]] = {"teacher": [], "student": []}
    towers = {"teacher": teacher_tower(problem), "student": student.tower}
    lengths = problem.tokens.lengths
    slowest = min(_rate(tower, _spread(lengths, FEWEST_TEXTS), lengths) for tower in towers.values())
    items = _spread(lengths, min(MOST_TEXTS, max(FEWEST_TEXTS, int(slowest * ROUND_SECONDS))))
    with problem.reporter.progress("timing student and teacher") as progress:
        for done in range(1, ROUNDS + 1):
            for name, tower in towers.items():
                rates[name].append(_rate(tower, items, lengths))
            progress(done, ROUNDS)
    heads = {"teacher": teacher.learner.model.head, "student": student.learner.model.head}

    def figures(name: str) -> EncoderFigures:
        parameters = [*towers[name].served_parameters(), *heads[name].parameters()]
        return EncoderFigures(
            parameters=sum(p.numel() for p in parameters),
            bytes=sum(p.numel() * p.element_size() for p in parameters),
            items_per_second=statistics.median(rates[name]),
        )

    return InferenceFigures(teacher=figures("teacher"), student=figures("student"))


def _spread(lengths: Tensor, count: int) -> Tensor:
    """Return (count,) places spread evenly over the texts; fewer where there are not so many."""
    return torch.linspace(0, len(lengths) - 1, min(count, len(lengths))).long()


def _rate(tower: nn.Module, items: Tensor, lengths: Tensor) -> float:
    started = time.perf_counter()
    encode_items(tower, items, lengths)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return len(items) / (time.perf_counter() - started)

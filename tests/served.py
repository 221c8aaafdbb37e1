"""Exports to serve: students that were never trained, of the synthetic shop."""

import doctest
from pathlib import Path
from typing import Any

import torch

from distill.export.manifest import EncoderReference, Origin
from distill.export.tasks.registry import exported_as
from distill.export.writer import export
from distill.hyperparameters import StudentHyperparameters
from distill.serving.served_student import ServedStudent
from distill.student import Student, start, texts_in
from studies.config.hyperparameters import Hyperparameters
from studies.training.problem import Problem


def untrained(problem: Problem, values: Hyperparameters, width: int = 0, layers: int = 2) -> Student:
    """An untrained student no two parts of whose head are equal by accident."""
    learner = problem.learner(values)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in learner.model.head.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    texts, shape = texts_in(problem, "catalogue"), StudentHyperparameters(width=width, layers=layers)
    return start(problem, learner, texts, shape)


def run_example(server: type[ServedStudent], folder: Path) -> None:
    """Runs the example in a server's documentation on an export."""
    (example,) = (test for test in doctest.DocTestFinder().find(server) if test.examples)
    example.globs |= {"folder": folder}
    assert doctest.DocTestRunner().run(example).failed == 0


def export_to(problem: Problem, student: Student, folder: Path, *, checked: bool = False, **options: Any) -> Path:
    """Exports a student that nobody evaluated.

    Args:
        problem: of its study.
        student: what is exported.
        folder: the export.
        checked: whether answers are compared and 8-bit weights measured on the study's data.
        options: of `distill.export.writer.export`.
    """
    encoder = EncoderReference(name="a tiny BERT", sha256=problem.encoder.identity, vocabulary=89)
    origin = Origin(
        study="tiny",
        study_id="0" * 32,
        spec=problem.spec.model_dump(mode="json"),
        data_fingerprint=problem.data.fingerprint,
        encoder=encoder,
    )
    return export(
        student,
        exported_as(problem.spec).part("export").of(problem),
        folder,
        origin,
        **options | {"problem": problem if checked else None},
    )

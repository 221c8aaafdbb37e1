"""An exported student: what it gives on a device in each precision, and the embedder that is timed."""

from __future__ import annotations

from pathlib import Path

import torch
from students.origin import origin_of
from torch import Tensor

from distill.export.description import describe
from distill.export.layout import write_encoder, write_head
from distill.export.manifest import seal
from distill.export.tasks.ranking import RankingExport
from distill.export.writer import export
from distill.hyperparameters import StudentHyperparameters
from distill.inference import StudentRecommender
from distill.student import start, texts_in
from studies.config.hyperparameters import Hyperparameters
from studies.learners.base import Learner
from studies.training.problem import Problem

K, SHOTS, USERS, LIST = 10, 5, 16, 256


def with_random_head(learner: Learner) -> Learner:
    """Return the learner with a head that is the same on every device.

    A study's head starts at the principal directions of the texts' vectors, which move far with rounding errors in
    these; and its scalars start at zero, where all items score alike.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.model.head.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return learner


def exported(problem: Problem, folder: Path, *, checked: bool = True) -> Path:
    """Export a student before its first step, whose weights are the same whatever the device; return the folder.

    Args:
        problem: Of a pack.
        folder: Is made.
        checked: As a study exports; otherwise without the fresh processes that check it, which take ten seconds.
    """
    learner = with_random_head(problem.learner(Hyperparameters("anil", inner_lr=0.05, inner_steps=2)))
    values = StudentHyperparameters(layers=1)
    texts = texts_in(problem, values.vocabulary)
    student = start(problem, learner, texts, values)
    origin = origin_of(problem, "gpu")
    if checked:
        return export(student, RankingExport.of(problem), folder, origin, problem=problem)
    folder.mkdir()
    write_encoder(student, folder)
    described = describe(student, origin)
    write_head(student.head, described, folder)
    RankingExport.of(problem).write(student, folder)
    seal(folder, described)
    return folder


def served(problem: Problem, folder: Path) -> dict[str, Tensor]:
    """Return vectors, scores and lists of an exported student in every precision, by name."""
    texts = list(problem.data.texts[:LIST])
    histories = [texts[user : user + SHOTS] for user in range(USERS)]
    support = [(histories[shot], texts[-1 - shot]) for shot in range(SHOTS)]
    found = {}
    for precision in ("fp32", "bf16", "fp16"):
        student = StudentRecommender.load(folder, precision=precision)
        ranking = student.catalogue(texts).adapt(support).rank(histories, k=LIST)
        found |= {
            f"{precision} vectors of the export": student.embed(texts),
            f"{precision} scores of the export": ranking.scores.gather(1, ranking.items.argsort(1)),
            f"{precision} lists of the export": ranking.items[:, :K],
        }
    return found

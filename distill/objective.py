"""What one distillation trial does: train a student rung by rung, reporting validation recall and cost at each.

The counterpart of `studies/training/objective.py`: `Distillation` computes the targets once, `run_trial` is called per
configuration, and the caller's `report` decides whether the trial continues.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from distill.episode_draws import DRAWS
from distill.hyperparameters import StudentHyperparameters, Vocabulary
from distill.student import Student, Texts, TokenTower, blank, parameters, start, teacher_tower, texts_in
from distill.student_training import StudentTraining, evaluate, recalls_in, validation_recalls
from distill.targets import Teacher, compute_targets
from distill.teacher_states import TeacherStates, needed
from distill.trainer import Distiller, rank_episodes
from storage.errors import InputError
from storage.files import checkpoints
from studies.config.distill_losses import LOSSES
from studies.config.distill_section import DistillSection
from studies.config.hyperparameters import Hyperparameters
from studies.config.search_domains import values_of
from studies.evaluation.evaluate import encode_items
from studies.model.device import device
from studies.training.outer_loop import Diverged, load_weights
from studies.training.problem import Problem
from studies.training.rungs import RungReport, run_rungs

# Parts of the distilled student's rate at which the one without a teacher is trained.
RATES = (1.0, 0.25)


class Distillation:
    """What the distillation trials of a study share: teachers, targets, texts.

    Args:
        problem: The study's data.
        teachers: The winners, in any order; the best by validation recall gives layers, head and inner loop.
        folder: Where the targets are kept; nowhere if left out.

    Raises:
        InputError: There are no teachers.
    """

    def __init__(self, problem: Problem, teachers: Sequence[Teacher], folder: Path | None = None) -> None:
        if not teachers:
            raise InputError("the distillation got no teachers; it needs at least one finished trial: run the search")
        self.problem = problem
        self.teachers = sorted(teachers, key=lambda teacher: (-teacher.recall, teacher.trial))
        section = problem.spec.distill
        episodes = rank_episodes(section, len(problem.train))
        self.targets = compute_targets(problem, self.teachers, episodes, folder)
        of_states = [name for name, loss in LOSSES.items() if loss.reads == "states"]
        if any(max(values_of(section.space[name])) > 0 for name in of_states):
            layers = {int(count) for count in values_of(section.space["layers"])}
            with problem.reporter.progress("encoding texts layer by layer") as progress:
                problem.cache.build(needed(problem.encoder.layers, layers, self._trained), progress)
        self._texts = cache(self._read_texts)

    @property
    def _trained(self) -> int:
        """Top layers of the encoder that the best teacher trained."""
        return self.teachers[0].learner.hyperparameters.trainable_layers

    def _read_texts(self, vocabulary: Vocabulary) -> Texts:
        return texts_in(self.problem, vocabulary)

    def run_trial(
        self,
        hyperparameters: StudentHyperparameters,
        folder: Path,
        report: Callable[[RungReport], None],
        progress: Callable[[int], None] | None = None,
        embed_steps: int | None = None,
    ) -> float:
        """Distil one student and return its validation recall, NaN where training diverged.

        Where `folder` holds a checkpoint of an interrupted trial, its rung is reported again and training continues
        from there.

        Args:
            hyperparameters: The configuration.
            folder: Where the trial's checkpoints are kept.
            report: Called at each rung, after its checkpoint was written; raises to end the trial.
            progress: Called with the number of steps done, after each.
            embed_steps: Steps on texts; those of the study if left out.

        Raises:
            OutOfMemory: There is too little memory for this student.
            ArtifactsUnavailable: A checkpoint cannot be written or uploaded.
        """
        return self._run(hyperparameters, self.problem.spec.distill.of_steps(embed_steps), folder, report, progress)

    def train_without_teacher(
        self,
        hyperparameters: StudentHyperparameters,
        folder: Path,
        progress: Callable[[int, int], None],
        embed_steps: int | None = None,
    ) -> Student:
        """Train a student from the same start on labels alone, for as many steps; return the best on validation.

        It is tuned as far as its rate goes: the distilled student's own may be too high without a teacher.

        Args:
            hyperparameters: The distilled student's.
            folder: Where the checkpoints are kept; what is there already is not trained again.
            progress: Called with (steps done, steps in all).
            embed_steps: The distilled student's steps on texts; those of the study if left out.
        """
        section, found = self.problem.spec.distill.of_steps(embed_steps).without_teacher, dict[Path, float]()
        for number, part in enumerate(RATES):
            values = replace(hyperparameters.labels_alone(), lr=part * hyperparameters.lr)
            done, own = number * section.steps, folder / f"rate-{number}"

            def advance(step: int, done: int = done) -> None:
                progress(done + step, len(RATES) * section.steps)

            found[own] = self._run(values, section, own, lambda reached: None, advance)
        finite = {own: recall for own, recall in found.items() if math.isfinite(recall)}
        if not finite:
            raise Diverged("a student without a teacher diverged at every rate")
        return load_student(self.problem, max(finite, key=lambda own: finite[own]))

    def _run(
        self,
        hyperparameters: StudentHyperparameters,
        section: DistillSection,
        folder: Path,
        report: Callable[[RungReport], None],
        progress: Callable[[int], None] | None,
    ) -> float:
        student, states = self.start(hyperparameters), self.states(hyperparameters)
        draw = DRAWS[self.problem.spec.task]
        distiller = Distiller(student, self.targets, self.problem.train, section, states, draw)
        training, reached = StudentTraining(self.problem, distiller, section.rungs, progress), None
        if stored := checkpoints.newest_valid(folder):
            tensors, metadata = stored
            distiller.restore(tensors, metadata["step"])
            training.recalls.update(recalls_in(metadata))
            reached = RungReport(**metadata["reached"])
        return run_rungs(training, folder, report, time.perf_counter(), reached)

    def start(self, values: StudentHyperparameters) -> Student:
        """Return a student before its first step.

        Raises:
            InputError: It has more layers or a greater width than the encoder.
        """
        return start(self.problem, self.teachers[0].learner, self._texts(values.vocabulary), values)

    def states(self, values: StudentHyperparameters) -> TeacherStates | None:
        """Return the teacher's hidden states that a student is compared with; None where no loss reads any."""
        if not values.uses("states"):
            return None
        states = TeacherStates(self.problem.cache, self.problem.encoder.layers, values.layers, self._trained)
        return states if states.layers else None  # no cached states: the teacher trained these layers itself


def untrained(problem: Problem, teacher: Teacher, values: StudentHyperparameters) -> Student:
    """Return a student before its first step: layers and head are its teacher's."""
    return start(problem, teacher.learner, texts_in(problem, values.vocabulary), values)


def load_student(problem: Problem, folder: Path) -> Student:
    """Return the student that a distillation trial saved in `folder`: of its last checkpoint, never of an earlier one.

    Raises:
        InputError: The checkpoint is missing, damaged, or of another encoder.
    """
    tensors, metadata = checkpoints.last(folder)
    if metadata.get("encoder") != problem.encoder.identity:
        raise InputError(
            f"the checkpoint {folder} holds a student of another encoder ({str(metadata.get('encoder'))[:12]}, this "
            f"study's is {problem.encoder.identity[:12]}); name a folder of this study's, or distil again"
        )
    learner = Hyperparameters(**metadata["learner"])
    values = StudentHyperparameters.from_dict(metadata["hyperparameters"])
    student = blank(problem, learner, texts_in(problem, values.vocabulary), values)
    try:
        load_weights(student.model, tensors)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint {folder} does not fit this study's student ({error}); it was written by another "
            "version: distil again"
        ) from error
    return student


def size(problem: Problem, student: Student) -> float:
    """Return the parameters of the student's encoder over those of the teacher's."""
    return sum(p.numel() for p in student.tower.served_parameters()) / parameters(problem.encoder.model)


def latency(problem: Problem, student: Student, texts: int = 256, rounds: int = 5) -> float:
    """Return the student's encoding time over the teacher's for the same texts: the median of paired rounds.

    Args:
        problem: The study's data.
        student: Its tower must hold the tokens of `problem`'s items.
        texts: How many texts, spread evenly over the catalogue.
        rounds: How many rounds; each times both encoders in turn, so that a busy machine slows both.
    """
    towers = (student.tower, teacher_tower(problem))
    items = torch.linspace(0, len(problem.tokens) - 1, min(texts, len(problem.tokens))).long()
    ratios = []
    with problem.reporter.progress("timing the student beside its teacher") as progress:
        for done in range(1, rounds + 2):
            ours, theirs = (_seconds(tower, items) for tower in towers)
            ratios.append(ours / theirs)
            progress(done, rounds + 1)
    return statistics.median(ratios[1:])  # the first round warms up


def _seconds(tower: TokenTower, items: torch.Tensor) -> float:
    started = time.perf_counter()
    encode_items(tower, items, tower.tokens.lengths)
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


__all__ = [
    "Distillation",
    "Student",
    "StudentHyperparameters",
    "Teacher",
    "evaluate",
    "latency",
    "load_student",
    "size",
    "untrained",
    "validation_recalls",
]
